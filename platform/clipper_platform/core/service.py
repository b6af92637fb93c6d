"""What a replica carries: invocations per second, from what its batches take."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["UTILISATION", "Service", "capacity", "latency_capacity"]

# Share of its capacity that a replica is planned for: with 80% the queue of random arrivals stays about as long as
# what runs, and the tolerance above it (88%) is still stable.
UTILISATION: Final = 0.8
# Waiting times of random arrivals have an about exponential tail: the 99th percentile is ln(100) means.
_P99_MEANS: Final = math.log(100)


class Service(NamedTuple):
    """What executions take, as fitted: a batch of n takes `a + b·n` seconds; `limit` is the largest batch now and
    `concurrency` how many a replica runs at once."""

    a: float
    b: float
    limit: int = 1
    concurrency: int = 1


def capacity(service: Service) -> float:
    """Invocations per second that one replica can carry at most."""
    return _carried(*service)


def _carried(a: float, b: float, size: int, concurrency: int) -> float:
    took = a + b * size
    return concurrency * size / took if took > 0 else math.inf


def latency_capacity(service: Service, slo_s: float) -> float:
    """Invocations per second that one replica can carry with a 99th percentile inside `slo_s`, at most `UTILISATION`
    of its capacity.

    Batches: an invocation may wait for the batch that runs and then takes as long as its own, so two must fit. One at
    a time: its own execution and a wait that grows with the utilisation r as r / (1 − r) half executions (M/D/1).
    Where the objective cannot be kept by any number of replicas, capacity alone counts.
    """
    a, b, limit, concurrency = service
    if limit > 1:
        room = slo_s / 2 - a
        # Where not even one fits, capacity alone counts.
        size = int(room / b) if b <= room < b * limit else limit
        return _carried(a, b, size, concurrency) * UTILISATION
    took = a + b
    room = slo_s - took
    if room <= 0 or took <= 0:
        return capacity(service) * UTILISATION
    odds = 2 * room / (took * _P99_MEANS)  # r / (1 − r) at which the wait just fits
    return capacity(service) * min(UTILISATION, odds / (1 + odds))
