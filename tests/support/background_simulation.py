"""Live calls and background work on a virtual clock: the real `core.background` beside replicas that take a + b·n."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

from clipper_platform.core.background import Load, allowance

__all__ = ["Result", "simulate"]

POLL_S = 0.01  # as control.materializing looks for room
RECORD_S = 0.002  # what the store takes for a wave
WINDOW = 1000  # recent latencies that the p99 is of


@dataclass(frozen=True, slots=True)
class Result:
    """`rows`: background items that ended."""

    p99_s: float
    rows: int


def simulate(
    *, rate_per_s: float, fixed_s: float, each_s: float, limit: int, seconds: float, background: bool,
    replicas: int = 1, seed: int = 0,
) -> Result:  # fmt: skip
    """Poisson arrivals; a free replica takes what waits, at most `limit`; durations vary by a tenth."""
    rng = random.Random(seed)
    arrivals, now = deque[float](), 0.0
    while now < seconds:
        now += rng.expovariate(rate_per_s)
        arrivals.append(now)
    free_at = [0.0] * replicas
    waiting: deque[float] = deque()
    latencies: list[float] = []
    recent: deque[float] = deque(maxlen=WINDOW)
    p99, since_update = 0.0, 0
    last_call = last_batch = -math.inf
    looks = [0.0] if background else []  # when background work looks for room
    rows, now = 0, 0.0

    def took(n: int) -> float:
        return (fixed_s + each_s * n) * rng.uniform(0.9, 1.1)

    while arrivals or waiting:
        times = [arrivals[0]] if arrivals else []
        times += looks[:1]
        times += [t for t in free_at if t > now] if waiting else []
        now = max(now, min(times)) if times else now
        while arrivals and arrivals[0] <= now:
            last_call = arrivals[0]
            waiting.append(arrivals.popleft())
        for replica, free in enumerate(free_at):
            if free <= now and waiting:
                batch = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
                free_at[replica] = now + took(len(batch))
                found = [free_at[replica] - came for came in batch]
                latencies += found
                recent += found
                since_update += len(found)
        if looks and looks[0] <= now:
            heapq.heappop(looks)
            if since_update and (since_update > 20 or not p99):
                p99, since_update = sorted(recent)[max(0, math.ceil(0.99 * len(recent)) - 1)], 0
            idle = [replica for replica, free in enumerate(free_at) if free <= now]
            load = Load(
                waiting=len(waiting), idle=len(idle), replicas=replicas, batch_limit=limit, fixed_s=fixed_s,
                each_s=each_s, live_p99_s=p99 or None, since_live_s=now - last_call, since_batch_s=now - last_batch,
            )  # fmt: skip
            n = allowance(load)
            rows += n
            for replica in idle if n else ():
                share = min(limit, n)
                n -= share
                if share:
                    free_at[replica] = last_batch = now + took(share)
            heapq.heappush(looks, max(last_batch + RECORD_S, now + 1e-6) if last_batch > now else now + POLL_S)
        if not arrivals and not waiting:
            break
    ordered = sorted(latencies)
    return Result(ordered[math.ceil(0.99 * len(ordered)) - 1], rows)
