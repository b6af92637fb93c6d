"""The model that every server here runs: the sum of ten floats."""

import clipper


@clipper.function(max_batch_size=32, min_replicas=1, max_replicas=1)
def total(numbers: list[list[float]]) -> list[float]:
    return [sum(each) for each in numbers]


@clipper.function(max_batch_size=32, min_replicas=1, max_replicas=1, cache_ttl_s=3600)
def total_cached(numbers: list[list[float]]) -> list[float]:
    return [sum(each) for each in numbers]
