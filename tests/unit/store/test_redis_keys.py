"""Keys of Redis."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from clipper_platform.errors import InvalidRequest
from clipper_platform.store.redis_keys import RedisKeys


def test_every_key_begins_with_the_prefix_and_no_two_are_the_same() -> None:
    keys = RedisKeys("here:")
    one_argument = (keys.versions, keys.secrets, keys.events)
    every = [key(project) for key in one_argument for project in ("a", "b", "a:b")]
    every += [getattr(keys, name) for name, part in inspect.getmembers(RedisKeys) if isinstance(part, property)]
    every += [key for name in ("a", "b") for key in dataclasses.astuple(keys.application(name))]
    assert len(every) == len(set(every)) == 9 + 12 + 14
    assert all(key.startswith("here:") for key in every)
    assert RedisKeys().projects == "clip:projects"


@pytest.mark.parametrize("prefix", ["", "a b", "a\n", "é", "x" * 129, "a*", "[a]", "a?", "a\\"])
def test_a_prefix_that_would_read_badly_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="prefix"):
        RedisKeys(prefix)
