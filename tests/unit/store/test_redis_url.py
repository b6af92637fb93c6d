"""Redis URLs: which are accepted, and how they are shown."""

from __future__ import annotations

import pytest

from clipper_platform.errors import InvalidRequest
from clipper_platform.store import redis_url
from clipper_platform.store.redis import RedisStore


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://localhost", "redis://localhost"),
        ("redis://:s3cret@db.example:6380/2", "redis://db.example:6380/2"),
        ("rediss://user:s3cret@db.example/0?ssl_ca_certs=/ca.pem", "rediss://db.example/0"),
        ("redis://user:s3%40cret@[::1]:6379/0?db=3", "redis://[::1]:6379/0?db=3"),
        ("unix://user:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_a_redis_url_is_shown_without_who_and_password(url: str, seen: str) -> None:
    store = RedisStore.from_url(url)
    assert store.url == seen
    assert "s3cret" not in repr(vars(store)["_shown"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://:s3cret@host", "'http' is not a Redis"),
        ("localhost:6379", "is not a Redis"),
        ("", "is not a Redis"),
        ("redis://:s3cret@host:99999", "port"),
        ("redis://:s3cret@host:x", "port"),
        ("redis://:s3cret@host:0", "redis://HOST:6379/0"),
        ("unix://user:s3cret/more@/run/redis.sock", "%2F"),
        ("redis://:s3cret@host/first", "'first'"),
        ("redis://:s3cret@host?db=-1", "'-1'"),
        ("redis://:s3cret@host?socket_timeout=99", "'socket_timeout'"),
        ("redis://host?password=s3cret", "'password'"),
        ("unix://", "path of the socket"),
        ("redis://:s3cret@[::1", "no URL"),
        ("redis://:s3cret#more@host", "%23"),
        ("redis://:s3cret/more@host", "no URL"),
        ("redis://user/s3cret@host", "%2F"),
    ],
)
def test_a_redis_url_that_cannot_be_used_is_refused_without_telling_the_password(url: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        redis_url.checked(url)
    assert "s3cret" not in str(caught.value)
