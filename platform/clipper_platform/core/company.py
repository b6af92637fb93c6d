"""Whether waiting for company pays: which callers are expected to join a batch, and how long to wait for them.

A replica that always takes what waits splits callers that ask again after each answer into cohorts. At 64 callers two
batches of 32 take turns, each with its fixed cost `a`, where one batch of 64 would pay it once. Waiting a moment after
a batch merges the cohorts. With callers that come by themselves (an open loop) a wait gains nothing: it only adds to
everybody's latency. So two things are learned, and time is an argument of both:

1. *Do the same callers come back?* The invocations in the system, counted at the end of each batch, vary by themselves
   like a Poisson number where callers come independently of the answers: their variance is at least their mean. Where
   a fixed number of callers ask again and again, it hardly varies. A population is taken for closed while the variance
   is below a third of the mean.
2. *How soon?* The n-th arrival after an answer is matched with the n-th answer, first in, first out. The histogram of
   these times to return says how many of those who were answered will be back by when.

The decision maximises the rate of this batch, (n + joiners) / (wait + a + b·(n + joiners)): it waits while the
expected joiners save more of `a` than the wait of those already there costs. That is the rule of renewal rewards, and
in a closed system the greatest rate is the least latency as well (Little's law). A wait never exceeds `a`: where the
prediction is wrong, a batch takes at most twice as long as it would have (the bound of the ski-rental problem).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable

__all__ = ["Company", "holds"]

# What an idle replica costs between two batches that are not pipelined: 0.1 to 0.2 ms (`batching.MOMENT_S`).
GAP_S = 0.00015

# Upper edges of the histogram of times to return: 0.25 ms to 91 ms in steps of √2. Later returns are no company.
_EDGES = tuple(0.00025 * 2 ** (i / 2) for i in range(18))
_BINS = len(_EDGES)


def holds(costs: tuple[float, float] | None, running_s: float | None, lead_s: float) -> bool:
    """Whether a batch that is not full is better not committed ahead of the running one's end.

    Committed `lead_s` early it saves the gap between two batches, and misses all that arrive during the lead, which
    then pay another `a`. With arrivals at a steady rate, and a batch of what came during the running one (`running_s`),
    the loss is the greater one if lead·a > gap·running. It has to be twice as great: both are estimates.
    """
    if costs is None or running_s is None:
        return False
    return min(lead_s, running_s) * costs[0] > 2 * GAP_S * running_s


class Company:
    """For one function. Takes in arrivals and ends of batches; answers how long the next batch waits for company."""

    __slots__ = ("_answered", "_mean", "_population", "_returns", "_seen", "_total", "_variance", "_window")

    # Memory of about 32 batches.
    NEWS = 1 / 32
    # The variance of the number in the system, over what its mean exceeds 1 (the invocation that was just answered is
    # always there), is at least 1 for independent callers; over 32 batches it is below this once in some thousand.
    CLOSED = 0.35
    # Before this many batches and returns nothing is concluded.
    ENOUGH = 16
    # What waiting must gain to be worth it, by the estimate.
    MARGIN = 1.03

    def __init__(self) -> None:
        self._answered: deque[tuple[float, int]] = deque()  # (when, how many) that have not returned
        self._returns = [0.0] * (_BINS + 1)
        self._total = 0.0  # of the histogram
        self._seen = 0
        self._window = 0  # batches, counted up to ENOUGH
        self._mean = self._variance = self._population = 0.0

    def arrived(self, total: int, now: float) -> None:
        """`total` invocations have arrived since the function began."""
        new, self._seen = total - self._seen, total
        answered = self._answered
        while new > 0 and answered:
            at, n = answered[0]
            back = n if n < new else new
            self._returns[bisect_left(_EDGES, now - at)] += back
            self._total += back
            new -= back
            if back == n:
                answered.popleft()
            else:
                answered[0] = (at, n - back)

    def completed(self, answered: int, in_system: int, now: float) -> None:
        """A batch ended: `answered` invocations of the `in_system` that waited or ran just before."""
        if not self._window:
            self._mean = self._population = float(in_system)
            self._variance = self._mean
        error = in_system - self._mean
        self._mean += error * self.NEWS
        self._variance += (error * error - self._variance) * self.NEWS
        self._population = max(in_system, answered, self._population - (self._population - in_system) * self.NEWS)
        self._window = min(self.ENOUGH, self._window + 1)
        if self._total > 16 * max(8.0, self._population):  # some 16 rounds of everybody
            self._returns = [n / 2 for n in self._returns]
            self._total /= 2
        self._answered.append((now, answered))
        away = sum(n for _, n in self._answered)
        # Callers who did not return; the newest entry is never among them.
        while away > self._population + 1 or now - self._answered[0][0] > _EDGES[-1]:
            away -= self._answered.popleft()[1]

    @property
    def closed(self) -> bool:
        """Whether the same callers seem to come back, so that company may be expected at all."""
        if self._window < self.ENOUGH or self._total < self.ENOUGH:
            return False
        return self._mean > 1.5 and self._variance < self.CLOSED * (self._mean - 1)

    def away(self, now: float) -> int:
        """How many that were answered lately have not come back."""
        return sum(n for at, n in self._answered if now - at < _EDGES[-1])

    def wait_s(self, waiting: int, room: int, now: float, costs: tuple[float, float]) -> float:
        """How long a batch of `waiting` should wait for others, at most `room` in all, on a replica that is free.

        costs: (a, b) of the replica's batches.
        """
        return self._best(waiting, room, now, costs, self._answered, 0.0)[0]

    def holds(self, waiting: int, room: int, free_at: float, answers: int, costs: tuple[float, float]) -> bool:
        """Whether a batch should wait for the end of the running one, at `free_at`, rather than be committed now.

        answers: how many invocations the running batch answers then.
        """
        pool = (*self._answered, (free_at, answers))
        return self._best(waiting, room, free_at, costs, pool, GAP_S)[1] > 0

    def _best(
        self,
        waiting: int,
        room: int,
        free_at: float,
        costs: tuple[float, float],
        pool: Iterable[tuple[float, int]],
        gap_s: float,
    ) -> tuple[float, float]:
        """The wait from `free_at` with the greatest rate, and who joins until then; (0, 0) where sending now is better.
        `gap_s`: what not sending now costs in any case."""
        a, b = costs
        best = (0.0, 0.0)
        if a <= 0:
            return best
        shares = self._shares()
        rate = waiting / (a + b * waiting) * self.MARGIN
        for wait_s in (0.0, *_EDGES):
            if wait_s > a:
                break
            joiners = sum(n * _returned(shares, free_at - at, free_at + wait_s - at) for at, n in pool)
            size = min(float(room), waiting + joiners)
            reached = size / (a + b * size + wait_s + gap_s)
            if reached > rate:
                best, rate = (wait_s, joiners), reached
        return best

    def _shares(self) -> list[float]:
        """The share of callers that are back by each edge."""
        shares, back = [], 0.0
        for n in self._returns[:_BINS]:
            back += n
            shares.append(back / self._total if self._total else 0.0)
        return shares


def _returned(shares: list[float], age_s: float, until_s: float) -> float:
    """The share of those who were answered `age_s` ago, and are still away, that will be back `until_s` after it."""
    before, after = _share(shares, age_s), _share(shares, until_s)
    return (after - before) / (1 - before) if before < 0.98 else 0.0


def _share(shares: list[float], after_s: float) -> float:
    """`shares` at any time, interpolated between the edges."""
    if after_s <= 0:
        return 0.0
    i = bisect_left(_EDGES, after_s)
    if i >= _BINS:
        return shares[-1]
    low, low_s = (shares[i - 1], _EDGES[i - 1]) if i else (0.0, 0.0)
    return low + (shares[i] - low) * (after_s - low_s) / (_EDGES[i] - low_s)
