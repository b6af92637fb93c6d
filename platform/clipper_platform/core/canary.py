"""Whether a new version that answers a share of the calls does as well as the one before."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Answers", "Limits", "judge", "since"]

# With fewer answers than this, less than five are above the 99th percentile, and one pause of the machine moves it.
P99_SAMPLES = 500
# Differences below this come from the machine, not from the version: a p99 of 1 ms that doubles is no regression.
NOISE_S = 0.010


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of one function version: how many, those of them with a status of 500 and above, and the p99 of their latency in
    seconds (None without recent ones). `broken`: its replicas ended and it gave up starting others."""

    answered: int = 0
    failed: int = 0
    p99_s: float | None = None
    broken: bool = False

    @property
    def error_rate(self) -> float | None:
        return self.failed / self.answered if self.answered else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`max_error_rate_increase`: a share of the answers; `max_p99_ratio`: new to old; `min_samples`: answers of the
    new version before it is judged."""

    max_error_rate_increase: float
    max_p99_ratio: float
    min_samples: int


def since(now: Answers, then: Answers) -> Answers:
    """The answers between two readings; the p99, of recent answers anyway, is the later reading's."""
    return Answers(
        answered=max(0, now.answered - then.answered),
        failed=max(0, now.failed - then.failed),
        p99_s=now.p99_s,
        broken=now.broken,
    )


def judge(old: Answers, new: Answers, limits: Limits, *, final: bool) -> str:
    """The reason to stop the new version, in words; empty while there is none.

    Errors count at any time; latency, which a cold cache or a busy second may spoil, at the end of a step (`final`).
    """
    if new.broken:
        return "it has no replica any more"
    if new.answered < limits.min_samples or new.error_rate is None:
        return ""
    before = old.error_rate or 0.0
    if new.error_rate > before + limits.max_error_rate_increase:
        return (
            f"{new.error_rate:.1%} of its {new.answered} answers failed, {before:.1%} of the old version's "
            f"{old.answered}; max_error_rate_increase = {limits.max_error_rate_increase:g}"
        )
    if not final or min(new.answered, old.answered) < P99_SAMPLES or new.p99_s is None or old.p99_s is None:
        return ""
    if new.p99_s > max(old.p99_s * limits.max_p99_ratio, old.p99_s + NOISE_S):
        return (
            f"its p99 is {new.p99_s * 1000:.1f} ms, the old version's {old.p99_s * 1000:.1f} ms; "
            f"max_p99_ratio = {limits.max_p99_ratio:g}"
        )
    return ""
