"""A model whose batches take 5 ms + 0.05 ms per item, under each of the batching policies."""

import time

import clipper

OBJECTIVE_S = 0.02


def run(x: list[float]) -> list[float]:
    time.sleep(0.005 + 0.00005 * len(x))
    return x


@clipper.function(max_batch_size=512, batch_policy="none", min_replicas=1, max_replicas=1)
def none(x: list[float]) -> list[float]:
    return run(x)


@clipper.function(
    max_batch_size=512, latency_slo_s=OBJECTIVE_S, min_replicas=1, max_replicas=1, max_queued_requests=10_000
)
def aimd(x: list[float]) -> list[float]:
    return run(x)


@clipper.function(
    max_batch_size=512,
    latency_slo_s=OBJECTIVE_S,
    batch_policy="latency_model",
    min_replicas=1,
    max_replicas=1,
    max_queued_requests=10_000,
)
def latency_model(x: list[float]) -> list[float]:
    return run(x)
