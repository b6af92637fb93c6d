"""Recent levels in fixed memory: their averages over a long and a short window, and their highest value.

Both are values: `observe` returns the next one and changes nothing. They are built by position with `tuple.__new__`,
which takes half the time of a call of the class: both are made once per decision, 20,000 times a second.
"""

from __future__ import annotations

from array import array
from math import fsum
from typing import Final, NamedTuple

__all__ = ["SlidingAverages", "SlidingMax"]

# A window moves on in steps of a sixtieth of it, a second of the usual minute.
_BUCKETS: Final = 60
_RING: Final = _BUCKETS - 1  # the finished buckets; the one that fills comes on top
_EMPTY: Final = array("d", bytes(16 * _RING))
# The highest value of a delay is known to within a thirty-second of the delay.
_STEPS: Final = 32
_new: Final = tuple.__new__


class _Finished(NamedTuple):
    """The finished buckets: how many, sums over the stable and the panic window, and their averages in a ring.

    `ring`: load and rate side by side, `head` is the next place; None while all of them are 0.
    """

    filled: int = 0
    head: int = 0
    stable_load: float = 0.0
    panic_load: float = 0.0
    stable_rate: float = 0.0
    panic_rate: float = 0.0
    ring: array[float] | None = None

    def close(self, load: float, rate: float, panic_buckets: int) -> _Finished:
        """One more bucket ends, with these averages."""
        filled, head, stable_load, panic_load, stable_rate, panic_rate, ring = self
        if filled < _RING:
            filled += 1
        if ring is None:
            if not load and not rate:
                return _Finished(filled)
            ring = _EMPTY
        place, leaves_panic = 2 * head, 2 * (head - panic_buckets)
        stable_load += load - ring[place]
        panic_load += load - ring[leaves_panic]
        stable_rate += rate - ring[place + 1]
        panic_rate += rate - ring[leaves_panic + 1]
        ring = ring[:]
        ring[place] = load
        ring[place + 1] = rate
        head += 1
        if head == _RING:
            # Added up once a round, so that rounding errors do not add up: an idle function's average becomes 0.
            head = 0
            lately = ring[2 * (_RING - panic_buckets) :]
            stable_load, panic_load = fsum(ring[::2]), fsum(lately[::2])
            stable_rate, panic_rate = fsum(ring[1::2]), fsum(lately[1::2])
            if not stable_load and not stable_rate:
                return _Finished(filled)
        closed: _Finished = _new(_Finished, (filled, head, stable_load, panic_load, stable_rate, panic_rate, ring))
        return closed

    def presume(self, rate: float, panic_buckets: int) -> _Finished:
        """All of them with this rate."""
        if not rate:
            return self
        ring = _EMPTY[:] if self.ring is None else self.ring[:]
        for ago in range(1, self.filled + 1):
            ring[2 * (self.head - ago) + 1] = rate
        return self._replace(
            stable_rate=rate * self.filled, panic_rate=rate * min(self.filled, panic_buckets), ring=ring
        )


class SlidingAverages(NamedTuple):
    """Averages of a load and of a rate over the stable and the panic window that end now; constant time, about 1.4 KiB
    while either is not 0 within the windows, and a third of it otherwise.

    As knative's: the time before the first observation does not observed, so that the first one is the average. Between
    observations both stay what they were. They are kept together because their windows move together.
    """

    width_s: float  # of a bucket
    panic_buckets: int  # finished buckets of the panic window; the one that fills comes on top
    bucket: int = -1  # the number of the one that fills
    observed: int = 0  # times, in it
    load: float = 0.0  # their sums
    rate: float = 0.0
    last_load: float = 0.0
    last_rate: float = 0.0
    finished: _Finished = _Finished()

    @classmethod
    def over(cls, stable_s: float, panic_s: float) -> SlidingAverages:
        """Without an observation: the first one is the average."""
        width_s = stable_s / _BUCKETS
        return cls(width_s, min(_RING, max(1, round(panic_s / width_s) - 1)))

    def cleared(self) -> SlidingAverages:
        """As if nothing had been observed."""
        return SlidingAverages(self.width_s, self.panic_buckets)

    def observe(self, load: float, rate: float, now: float) -> tuple[float, float, float, float, SlidingAverages]:
        """Take in both at `now`: the averages of the load over the stable and the panic window, those of the rate, and
        what to observe with next."""
        width_s, panic_buckets, bucket, observed, load_sum, rate_sum, last_load, last_rate, finished = self
        current = int(now / width_s)
        if current > bucket:
            if observed:
                finished = finished.close(load_sum / observed, rate_sum / observed, panic_buckets)
                # Without an observation, a bucket holds the last one.
                for _ in range(min(current - bucket - 1, _RING)):
                    finished = finished.close(last_load, last_rate, panic_buckets)
            bucket, observed, load_sum, rate_sum = current, 1, load, rate
        else:
            observed += 1
            load_sum += load
            rate_sum += rate
        following: SlidingAverages = _new(
            SlidingAverages, (width_s, panic_buckets, bucket, observed, load_sum, rate_sum, load, rate, finished)
        )
        load, rate = load_sum / observed, rate_sum / observed
        filled, _, stable_load, panic_load, stable_rate, panic_rate, _ = finished
        stable = panic = filled + 1
        if panic > panic_buckets:
            panic = panic_buckets + 1
        return (
            (stable_load + load) / stable, (panic_load + load) / panic,
            (stable_rate + rate) / stable, (panic_rate + rate) / panic, following,
        )  # fmt: skip

    def presume(self, rate: float) -> SlidingAverages:
        """The rate was not known until now: take it to have been this one."""
        return self._replace(
            rate=rate * self.observed, last_rate=rate, finished=self.finished.presume(rate, self.panic_buckets)
        )


class SlidingMax(NamedTuple):
    """The highest value of the last `span_s` seconds, the present one included; at most 33 entries.

    `span_s` 0: the present one.
    """

    span_s: float
    at: float  # when `value`, the lowest and latest entry, was last seen
    value: float
    higher: tuple[tuple[float, float], ...] = ()  # falling values, each after the time at which it was last seen

    def observe(self, value: float, now: float) -> tuple[float, SlidingMax]:
        """The highest value, and what to observe with next."""
        span_s, at, latest, higher = self
        if not span_s:
            return value, self
        if not higher and latest == value:  # the usual case: nothing changes
            following: SlidingMax = _new(SlidingMax, (span_s, now, value, ()))
            return value, following
        entries = [*higher, (at, latest)]
        while entries and entries[-1][1] <= value:
            entries.pop()
        if not entries or now - entries[-1][0] >= span_s / _STEPS:
            entries.append((now, value))
        since = now - span_s
        gone = 0
        while gone < len(entries) - 1 and entries[gone][0] <= since:
            gone += 1
        oldest, highest = entries[gone]
        following = SlidingMax(span_s, *entries[-1], tuple(entries[gone:-1]))
        return highest if oldest > since else value, following
