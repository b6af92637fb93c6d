"""How much is measured, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "SANITY", "Budget", "Plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of the measurements; times in seconds. wrk takes whole seconds only."""

    name: str
    limit_s: float  # of everything together
    rounds: int
    connections: tuple[int, ...]
    measure_s: int
    warm_s: int
    batching_rates: tuple[float, ...]  # offered, as multiples of what the model does without batches
    batching_s: float
    payload_s: float
    payload_rounds: int
    fairness_s: float
    fairness_rounds: int
    profile_s: int
    stragglers_s: float
    full_simulations: bool


FULL = Plan(
    name="full", limit_s=660, rounds=3, connections=(1, 8, 64, 256), measure_s=3, warm_s=1,
    batching_rates=(1, 20, 25), batching_s=6, payload_s=3, payload_rounds=3,
    fairness_s=6, fairness_rounds=3, profile_s=6, stragglers_s=2, full_simulations=True,
)  # fmt: skip
QUICK = Plan(
    name="quick", limit_s=120, rounds=1, connections=(1, 64), measure_s=1, warm_s=1,
    batching_rates=(20,), batching_s=3, payload_s=1, payload_rounds=1,
    fairness_s=3, fairness_rounds=1, profile_s=2, stragglers_s=1, full_simulations=False,
)  # fmt: skip
SANITY = Plan(
    name="sanity", limit_s=60, rounds=1, connections=(1, 8), measure_s=1, warm_s=1,
    batching_rates=(5,), batching_s=1, payload_s=0.5, payload_rounds=1,
    fairness_s=1, fairness_rounds=1, profile_s=1, stragglers_s=0.5, full_simulations=False,
)  # fmt: skip


class Budget:
    """The time that is left. A section checks that it fits before it starts."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self.limit_s = limit_s

    @property
    def spent_s(self) -> float:
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        return max(0.0, self.limit_s - self.spent_s)

    def fits(self, seconds: float) -> bool:
        return self.left_s >= seconds
