"""How many waiting invocations make the next batch, and when: pure decisions.

`plan` returns *dispatch n now* or *wait until t* for one replica. It conserves work: an idle replica gets what waits,
unless the policy waits a bounded time for more. A second batch is sent to a busy replica only when the running one is
about to end, so that the replica never idles between two batches (`ahead_from`); what was sent ahead of a batch that
takes longer than expected is wanted back (`overdue_at`), since another replica may be free. Batches are never padded.

A `SizeController` learns the size limit from how long batches take to *run*. Time in a queue does not count: under
overload it grows whatever the size, and smaller batches would lower the throughput and lengthen the queue further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from clipper.contract.spec import BatchPolicy
from clipper_platform.core.fitting import DurationFit

__all__ = [
    "NEVER",
    "Aimd",
    "Dispatch",
    "LatencyModel",
    "Policy",
    "Single",
    "SizeController",
    "Static",
    "WaitUntil",
    "ahead_from",
    "make_controller",
    "overdue_at",
    "plan",
]

# How long before its expected end a running batch is "about to end", and how long after it is overdue. Replicas with
# calls shorter than this always have a second batch (an idle one costs 0.1 to 0.2 ms between two); what was sent ahead
# of a longer one waits for it at most twice as long.
MOMENT_S = 0.005


def _at_least(low: int, key: str, value: float) -> None:
    if not low <= value < math.inf:
        raise ValueError(f"{key} = {value!r} is not allowed: it must be a number of at least {low}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What holds for one replica's batches. Times in seconds; sizes in items.

    `limit` is the size controller's; `depth` is how many batches may be in flight; a batch behind a running one is
    committed `lead_s` before that one is expected to end (1 ms covers a frame's way through two event loops).
    """

    max_batch_size: int
    wait_timeout_s: float = 0.0
    limit: int = 1
    depth: int = 2
    lead_s: float = 0.001

    def __post_init__(self) -> None:
        _at_least(1, "max_batch_size", self.max_batch_size)
        _at_least(1, "limit", self.limit)
        _at_least(1, "depth", self.depth)
        _at_least(0, "wait_timeout_s", self.wait_timeout_s)
        _at_least(0, "lead_s", self.lead_s)

    def with_limit(self, limit: int) -> Policy:
        """This policy with the controller's present limit; itself when that has not changed."""
        if limit == self.limit:
            return self
        return Policy(
            max_batch_size=self.max_batch_size,
            wait_timeout_s=self.wait_timeout_s,
            limit=limit,
            depth=self.depth,
            lead_s=self.lead_s,
        )


class Dispatch(NamedTuple):
    """Send the first `n` waiting items to the replica now.

    `full`: the limit, not the load, decided the size. The caller passes it to `SizeController.observe` later.
    """

    n: int
    full: bool = False


class WaitUntil(NamedTuple):
    """Plan again at `t`, or earlier when an item arrives or a batch ends. `inf`: only then."""

    t: float


NEVER = WaitUntil(math.inf)


def overdue_at(running_since: float, expected_s: float | None) -> float:
    """From when on a running batch takes longer than expected; at once where nothing is known of it."""
    return running_since + (expected_s + MOMENT_S if expected_s is not None else 0.0)


def ahead_from(running_since: float, expected_s: float | None, now: float, *, lead_s: float = MOMENT_S) -> float:
    """From when on another batch may be sent behind the running one: `lead_s` before its expected end. `inf`: only
    after its end, since it is overdue or nothing is known of it."""
    if expected_s is None or now > running_since + expected_s + MOMENT_S:
        return math.inf
    return running_since + expected_s - lead_s


_dispatch = lru_cache(maxsize=1024)(Dispatch)  # a look-up takes a third of the time of making one


def plan(
    pending: int,
    oldest_at: float,
    policy: Policy,
    now: float,
    *,
    in_flight: int = 0,
    running_since: float | None = None,
    expected_s: float | None = None,
    company_until: float = -math.inf,
    hold: bool = False,
) -> Dispatch | WaitUntil:
    """The next batch for one replica.

    pending: waiting items. oldest_at: when the first of them came. in_flight: batches the replica has not answered.
    running_since, expected_s: when the batch it runs now began, and how long such a batch is expected to take
    (`SizeController.expected`); None when unknown. company_until: until when others are expected to join; hold: a batch
    that is not full is not committed behind the running one (`core.company`).

    At the time of a WaitUntil, with nothing else changed, the answer is a Dispatch.
    """
    if pending <= 0 or in_flight >= policy.depth:
        return NEVER
    cap = policy.limit if policy.limit < policy.max_batch_size else policy.max_batch_size
    full = pending >= cap
    ready_at = now if full else max(oldest_at + policy.wait_timeout_s, company_until)
    if in_flight:
        if running_since is None or (hold and not full):
            return NEVER
        # A full batch gains nothing by waiting longer, the others may still grow.
        lead_s = MOMENT_S if full else policy.lead_s
        ready_at = max(ready_at, ahead_from(running_since, expected_s, now, lead_s=lead_s))
        if ready_at > overdue_at(running_since, expected_s):
            return NEVER
    if now < ready_at:
        return WaitUntil(ready_at)
    return _dispatch(cap, True) if full else _dispatch(pending, False)


class SizeController(Protocol):
    """Learns how large a replica's batches may be."""

    @property
    def limit(self) -> int:
        """The present limit of a batch's size, at least 1."""
        ...

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        """A batch of `size` ran for `duration_s`: from its start in the replica to its end.

        With two batches in flight, that is from the later of its sending and the previous batch's reply. `full` is
        `Dispatch.full`; without it, a size of at least the present limit counts as full.
        """
        ...

    def expected(self, size: float) -> float | None:
        """How long a batch of `size` should run, in seconds; None before the first observation."""
        ...

    def costs(self) -> tuple[float, float] | None:
        """(a, b): a batch of `size` should run for a + b·size seconds; None before the first observation."""
        ...


# The share of the objective that a batch's own run may take. An item that just missed a batch waits for that one to
# end (d) and then runs in the next (d): it stays 2·d, so d <= 0.5 of the objective. A tenth is left for what the model
# does not see: the network, the lead of the second batch, and bursts that do not fit one batch.
# objective 20 ms -> d = 9 ms, stay = 18 ms, 2 ms to spare.
BUDGET_FRACTION = 0.45


class Single:
    """One item at a time: a moving average of what one takes, at an eighth of the cost of a fit: it is paid per item.

    Several items that are sent in one frame and run one after another count as that many items.
    """

    __slots__ = ("_each_s", "limit")

    # Only the next duration matters for the second slot: a short memory, of about 5 batches.
    NEWS = 0.2

    def __init__(self) -> None:
        self.limit = 1
        self._each_s: float | None = None

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        each_s = self._each_s
        self._each_s = duration_s / size if each_s is None else each_s + (duration_s / size - each_s) * self.NEWS

    def expected(self, size: float) -> float | None:
        return None if self._each_s is None else self._each_s * size

    def costs(self) -> tuple[float, float] | None:
        return None if self._each_s is None else (0.0, self._each_s)


class Static:
    """Always the same limit; it learns only how long batches take."""

    __slots__ = ("_fit", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._fit = DurationFit()

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        self._fit.observe(size, duration_s)

    def expected(self, size: float) -> float | None:
        return self._fit.predict(size)

    def costs(self) -> tuple[float, float] | None:
        return self._fit.costs()


class Aimd:
    """Additive growth while batches keep the budget, back-off by 10% when they don't (Clipper, NSDI '17, §4.3.1).

    Two additions. The step of the growth doubles after every 8 steps without a back-off, so that a limit of 1,000 is
    found in 56 batches and not in 1,000, and is 1 again after each back-off, so that the limit stays within 10% below
    the best. And the back-off ends at `DurationFit.floor`: where the objective cannot be kept, the paper's rule goes
    down to 1 and takes the throughput with it.
    """

    __slots__ = ("_budget_s", "_fit", "_grown", "_limit", "_max", "_step")

    BACK_OFF = 0.9
    PATIENCE = 8

    def __init__(self, max_batch_size: int, budget_s: float) -> None:
        self._max = max_batch_size
        self._budget_s = budget_s
        self._fit = DurationFit()
        self._limit = 1.0
        self._step = 1.0
        self._grown = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        self._fit.observe(size, duration_s)
        if duration_s > self._budget_s:
            self._step, self._grown = 1.0, 0
            floor = self._fit.floor(self._budget_s)
            self._limit = min(float(self._max), max(1.0, floor, self._limit * self.BACK_OFF))
        elif size >= self.limit if full is None else full:
            # Only a full batch tests the limit: without this, the limit would grow for ever under low load.
            self._limit = min(float(self._max), self._limit + self._step)
            self._grown += 1
            if self._grown % self.PATIENCE == 0:
                self._step *= 2

    def expected(self, size: float) -> float | None:
        return self._fit.predict(size)

    def costs(self) -> tuple[float, float] | None:
        return self._fit.costs()


class LatencyModel:
    """The largest size whose predicted duration, and its usual deviation, fits the budget.

    Cautious where it has no data: never beyond the double of the largest size tried of late. So it starts at 1, doubles
    with each full batch until the fitted line reaches the budget, and does not grow while load is low. It shrinks by
    at most 30% per batch: the sizes on the way down measure the slope, which decides how far down is right.
    """

    __slots__ = ("_budget_s", "_fit", "_max", "limit")

    SHRINK = 0.7

    def __init__(self, max_batch_size: int, budget_s: float) -> None:
        self._max = max_batch_size
        self._budget_s = budget_s
        self._fit = DurationFit()
        self.limit = 1

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        fit = self._fit
        fit.observe(size, duration_s)
        room_s = self._budget_s - fit.a - fit.deviation_s
        fits = room_s / fit.b if fit.b > 0 else math.copysign(math.inf, room_s)
        wanted = min(max(fits, fit.floor(self._budget_s)), 2 * fit.tried, self._max)
        self.limit = max(1, int(wanted), int(self.limit * self.SHRINK))

    def expected(self, size: float) -> float | None:
        return self._fit.predict(size)

    def costs(self) -> tuple[float, float] | None:
        return self._fit.costs()


def make_controller(policy_name: BatchPolicy, max_batch_size: int, latency_slo_s: float | None) -> SizeController:
    """The controller that `batch_policy` names. Without an objective, every batch keeps it.

    Raises ValueError for an unknown name, a size below 1 or an objective that is not above 0.
    """
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size = {max_batch_size!r} is not allowed: it must be at least 1")
    if latency_slo_s is not None and not latency_slo_s > 0:
        raise ValueError(f"latency_slo_s = {latency_slo_s!r} is not allowed: it must be above 0")
    budget_s = math.inf if latency_slo_s is None else latency_slo_s * BUDGET_FRACTION
    match policy_name:
        case "aimd":
            return Aimd(max_batch_size, budget_s)
        case "latency_model":
            return LatencyModel(max_batch_size, budget_s)
        case "static":
            return Static(max_batch_size) if max_batch_size > 1 else Single()
        case "none":
            return Single()
    raise ValueError(f"batch_policy = {policy_name!r} is not allowed: use 'aimd', 'latency_model', 'static' or 'none'")
