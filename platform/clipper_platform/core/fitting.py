"""The duration of a batch by its size: a line fitted to the batches that ran, which follows changes of speed."""

from __future__ import annotations

import math

__all__ = ["DurationFit"]

# Where a batch's fixed cost `a` alone takes more than this share of the budget, the objective is lost for a busy
# replica whatever the size: `DurationFit.floor`.
_FEASIBLE = 2 / 3


class DurationFit:
    """duration ≈ a + b·size, fitted online by least squares that forget exponentially.

    Robust in two ways. A single far-off duration (a stall, a collection of garbage) is clipped to what was plausible.
    Several in a row, all slower or all faster, are a change of the model's speed: the fit is scaled by their median
    ratio at once and keeps little of its memory. Batches of one size do not determine the slope:
    it is pulled to slightly less than its previous value with the strength that sizes spread by 3% would have.
    """

    __slots__ = ("_ratios", "_sx", "_sxx", "_sxy", "_sy", "_turn", "_w", "a", "b", "deviation_s", "tried")

    # Memory of about 1 / (1 - 0.98) = 50 batches: half a second at 10 ms each.
    KEEP = 0.98
    # Clip beyond 4 mean absolute deviations (3.2 standard deviations of a normal one), at least 20% of the prediction.
    CLIP_DEVIATIONS = 4.0
    CLIP_SHARE = 0.2
    # So many in a row are a change: clipping a lone stall and following a slow-down within three batches.
    CHANGE_AFTER = 3
    # A prediction of next to nothing, once wrong, must not multiply into infinity.
    LARGEST_CHANGE = 1000.0
    # Without batches of other sizes the slope fades by half in 14 batches, so that a limit which a wrong slope holds
    # down is tried again.
    FADE = 0.95
    # What the memory weighs after a change of speed.
    KEEP_AFTER_CHANGE = 0.1

    def __init__(self) -> None:
        self.a = 0.0
        self.b = 0.0
        self.deviation_s = 0.0  # mean absolute deviation from the line
        self.tried = 0.0  # the largest recent size, slowly forgotten
        self._w = self._sx = self._sy = self._sxx = self._sxy = 0.0
        self._ratios: list[float] = []
        self._turn = False

    def predict(self, size: float) -> float | None:
        return self.a + self.b * size if self._w else None

    def costs(self) -> tuple[float, float] | None:
        return (self.a, self.b) if self._w else None

    def observe(self, size: float, duration_s: float) -> None:
        """Takes in that a batch of `size` took `duration_s`. Raises ValueError for impossible values."""
        if not (size > 0 and 0 <= duration_s < math.inf):
            raise ValueError(f"a batch of {size!r} that took {duration_s!r} s is not an observation")
        if self._w:
            duration_s = self._clipped(size, duration_s)
        keep = self.KEEP
        self._w = self._w * keep + 1
        self._sx = self._sx * keep + size
        self._sy = self._sy * keep + duration_s
        self._sxx = self._sxx * keep + size * size
        self._sxy = self._sxy * keep + size * duration_s
        self.tried = max(size, self.tried * keep)
        self._solve()

    def floor(self, budget_s: float) -> float:
        """The size below which shrinking does more harm than good; 1 where the budget can be kept.

        Where the fixed cost is most of the budget, small batches keep no objective and ruin the throughput. At
        size = a/b throughput per latency is greatest (n/(a+bn)² has its maximum there: Kleinrock's power); at half of
        it, 89% of that is left, a third of the peak throughput, and a run takes 1.5·a. That size is the floor. It joins
        the budget's own size continuously: at a = 2/3 of the budget both are a/2b. It rises by at most the double of
        what was tried. Every other time it is half as large again: full batches of one size would teach nothing about
        the slope that it depends on.
        """
        if self.a <= budget_s * _FEASIBLE:
            return 1.0
        self._turn = not self._turn
        knee = self.a / (2 * self.b) * (1.5 if self._turn else 1.0) if self.b > 0 else math.inf
        return max(1.0, min(knee, 2 * self.tried))

    def _clipped(self, size: float, duration_s: float) -> float:
        predicted = self.a + self.b * size
        error = duration_s - predicted
        room = max(self.CLIP_DEVIATIONS * self.deviation_s, self.CLIP_SHARE * predicted)
        self.deviation_s += (min(abs(error), room) - self.deviation_s) * (1 - self.KEEP)
        # A size far beyond those tried may show that the line was wrong: no change, unless earlier batches suggest one.
        if abs(error) <= room or predicted <= 0 or (size > 1.5 * self.tried and not self._ratios):
            self._ratios.clear()
            return duration_s
        ratio = min(duration_s / predicted, self.LARGEST_CHANGE)
        if self._ratios and (self._ratios[-1] > 1) != (ratio > 1):
            self._ratios.clear()
        self._ratios.append(ratio)
        if len(self._ratios) < self.CHANGE_AFTER:
            return predicted + math.copysign(room, error)
        self._change(sorted(self._ratios)[len(self._ratios) // 2])
        return duration_s

    def _change(self, ratio: float) -> None:
        """The model became `ratio` times as slow: both of its costs are scaled, until new batches correct them."""
        self._ratios.clear()
        self.deviation_s *= ratio
        self.b *= ratio
        self._w *= self.KEEP_AFTER_CHANGE
        self._sx *= self.KEEP_AFTER_CHANGE
        self._sxx *= self.KEEP_AFTER_CHANGE
        self._sy *= self.KEEP_AFTER_CHANGE * ratio
        self._sxy *= self.KEEP_AFTER_CHANGE * ratio

    def _solve(self) -> None:
        mean_x, mean_y = self._sx / self._w, self._sy / self._w
        spread = max(0.0, self._sxx - self._sx * mean_x)
        together = self._sxy - self._sx * mean_y
        pull = self._w * (0.03 * mean_x) ** 2
        b = max(0.0, (together + pull * self.b * self.FADE) / (spread + pull))
        a = mean_y - b * mean_x
        if a < 0:
            a, b = 0.0, mean_y / mean_x
        self.a, self.b = a, b
