"""Two functions that share nothing but the platform."""

import time

import clipper


@clipper.function(min_replicas=1, max_replicas=1)
def quiet(x: float) -> float:
    time.sleep(0.002)
    return x


@clipper.function(min_replicas=1, max_replicas=1)
def noisy(x: float) -> float:
    time.sleep(0.005)
    return x
