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
        ("redis://:s3cret@db.example/0?prefix=team-a", "redis://db.example/0?prefix=team-a"),
        ("redis+sentinel://:s3cret@one:1,two/main/2?sentinel_password=s3cret", "redis+sentinel://one:1,two/main/2"),
    ],
)
def test_a_redis_url_is_shown_without_who_and_password(url: str, seen: str) -> None:
    store = RedisStore(url)
    assert store.url == seen


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
        ("redis://:s3cret@host?prefix=", "prefix"),
        ("redis://:s3cret@host?prefix=a*", "prefix 'a\\*:' is not allowed|prefix 'a\\*' is not allowed"),
        ("redis://:s3cret@host?sentinel_password=s3cret", "'sentinel_password'"),
        ("redis+sentinel://:s3cret@one,two", "names no service"),
        ("redis+sentinel://:s3cret@one,two/main/first", "'first'"),
        ("redis+sentinel://:s3cret@one:x/main", "does not name its Sentinels"),
        ("redis+sentinel://:s3cret@one,,two/main", "does not name its Sentinels"),
        ("redis+sentinel:///main", "does not name its Sentinels"),
    ],
)
def test_a_redis_url_that_cannot_be_used_is_refused_without_telling_the_password(url: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        redis_url.parsed(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "prefix"),
    [("", "clip:"), ("?prefix=team-a", "team-a:"), ("?prefix=team%3A&db=1", "team:"), ("?prefix=a_", "a_")],
)
def test_a_prefix_of_letters_is_separated_from_the_keys(query: str, prefix: str) -> None:
    assert redis_url.parsed(f"redis://host/0{query}").prefix == prefix


def test_a_url_of_sentinels_names_them_the_service_and_the_login_of_the_master() -> None:
    address = redis_url.parsed("rediss+sentinel://me:s3cret@one:7,[::1],two/main/2?sentinel_password=other&prefix=a")
    assert address.sentinels == (("one", 7), ("::1", 26379), ("two", 26379))
    assert (address.service, address.sentinel_password, address.prefix) == ("main", "other", "a:")
    assert address.url == "rediss://me:s3cret@sentinel/2"
