"""When a new version must not go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.core.canary import P99_SAMPLES, Answers, Limits, judge, since

LIMITS = Limits(max_error_rate_increase=0.02, max_p99_ratio=2.0, min_samples=50)
FINE = Answers(answered=10_000, failed=100, p99_s=0.100)


def new(answered: int, failed: int = 0, p99_s: float | None = None) -> Answers:
    return Answers(answered=answered, failed=failed, p99_s=p99_s)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (new(49, failed=49), ""),  # too few to tell
        (new(100, failed=3), ""),  # 3 %, the old one has 1 %
        (new(100, failed=4), "max_error_rate_increase"),
        (new(50, failed=50), "100.0% of its 50 answers"),
        (Answers(broken=True), "no replica"),
    ],
)
def test_errors_are_judged_at_any_time_once_there_are_enough_answers(answers: Answers, reason: str) -> None:
    for final in (False, True):
        verdict = judge(FINE, answers, LIMITS, final=final)
        assert (reason in verdict) if reason else not verdict


@pytest.mark.parametrize(
    ("answers", "worse"),
    [
        (new(P99_SAMPLES, p99_s=0.201), True),
        (new(P99_SAMPLES, p99_s=0.199), False),
        (new(P99_SAMPLES - 1, p99_s=9.0), False),
        (new(P99_SAMPLES, p99_s=None), False),
    ],
)
def test_latency_is_judged_at_the_end_of_a_step_with_enough_answers(answers: Answers, worse: bool) -> None:
    assert ("max_p99_ratio" in judge(FINE, answers, LIMITS, final=True)) is worse
    assert not judge(FINE, answers, LIMITS, final=False)


def test_a_p99_of_a_few_milliseconds_may_double() -> None:
    old = Answers(answered=1000, p99_s=0.001)
    assert not judge(old, new(1000, p99_s=0.010), LIMITS, final=True)
    assert judge(old, new(1000, p99_s=0.012), LIMITS, final=True)


def test_a_version_without_a_single_call_to_compare_with_is_held_to_no_errors() -> None:
    assert judge(Answers(), new(100, failed=3), LIMITS, final=True)
    assert not judge(Answers(), new(100, failed=2), LIMITS, final=True)


counts = st.integers(0, 10_000)


@given(counts, counts, counts, counts, st.booleans())
def test_more_failures_never_make_a_version_look_better(n: int, few: int, more: int, old: int, final: bool) -> None:
    few, more = sorted((min(few, n), min(more, n)))
    before = Answers(answered=10_000, failed=old)
    if judge(before, new(n, failed=few), LIMITS, final=final):
        assert judge(before, new(n, failed=more), LIMITS, final=final)


def test_since_counts_what_came_between_two_readings() -> None:
    assert since(Answers(answered=10, failed=3, p99_s=0.5), Answers(answered=4, failed=1, p99_s=0.1)) == Answers(
        answered=6, failed=2, p99_s=0.5
    )
