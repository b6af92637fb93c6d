"""Calls dealt out by percent."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.serving.split import Split


@given(st.integers(1, 99))
def test_every_hundred_calls_are_shared_exactly(percent: int) -> None:
    split = Split([("old", 100 - percent), ("new", percent)])
    for _ in range(3):
        assert Counter(split.next() for _ in range(100)) == {"old": 100 - percent, "new": percent}


@given(st.integers(1, 50))
def test_the_smaller_share_is_spread_evenly(percent: int) -> None:
    split = Split([("old", 100 - percent), ("new", percent)])
    dealt = [split.next() for _ in range(400)]
    for start in range(300):
        assert abs(dealt[start : start + 100].count("new") - percent) <= 1


def test_who_has_no_share_gets_nothing() -> None:
    split = Split([("old", 0), ("new", 100)])
    assert {split.next() for _ in range(200)} == {"new"}
    with pytest.raises(ValueError, match="weight"):
        Split([("old", 0)])
