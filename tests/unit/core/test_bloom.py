"""A set of digests that may be wrong about what is not there, and never about what is."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from clipper_platform.core.bloom import Bloom


def digest(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=32).digest()


@pytest.mark.parametrize("expected", [0, 5000, 100_000])
def test_all_that_was_added_is_there_and_little_else(expected: int) -> None:
    known = Bloom(expected)
    for number in range(20_000):
        known.add(digest(number))
    assert all(digest(number) in known for number in range(20_000))
    wrong = sum(digest(number) in known for number in range(20_000, 40_000))
    assert wrong < 20_000 * 0.05
    assert known.size <= max(expected, 2 * 32_000) * 1.5


def test_nothing_is_in_an_empty_one() -> None:
    assert not any(digest(number) in Bloom() for number in range(1000))


def test_ten_million_digests_take_15_megabytes() -> None:
    assert Bloom(10_000_000).size == 15_000_000
