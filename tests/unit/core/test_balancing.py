"""Which replica gets the next batch."""

from __future__ import annotations

import random
from collections import Counter

from clipper_platform.core.balancing import Candidate, pick


def test_nobody_is_picked_from_nobody() -> None:
    assert pick([], random.Random(0)) is None


def test_the_least_loaded_is_picked() -> None:
    assert pick([Candidate("a", 3), Candidate("b", 1), Candidate("c", 2)], random.Random(0)) == "b"


def test_load_counts_in_proportion_to_capacity() -> None:
    assert pick([Candidate("a", 3, capacity=32), Candidate("b", 1, capacity=2)], random.Random(0)) == "a"


def test_ties_are_broken_evenly() -> None:
    rng = random.Random(7)
    counts = Counter(pick([Candidate("a", 1), Candidate("b", 1), Candidate("c", 5)], rng) for _ in range(1000))
    assert set(counts) == {"a", "b"}
    assert min(counts.values()) > 400
