"""What a refusal costs, beside what an answer costs."""

import time

import clipper


@clipper.function(max_batch_size=32, min_replicas=1, max_replicas=1)
def total(numbers: list[list[float]]) -> list[float]:
    return [sum(each) for each in numbers]


@clipper.function(min_replicas=1, max_replicas=1)
def model(numbers: list[float]) -> float:
    """Works for a millisecond, as a small model does."""
    until = time.process_time() + 0.001
    while time.process_time() < until:
        pass
    return sum(numbers)


@clipper.function(min_replicas=1, max_replicas=1, max_queued_requests=1)
def stuck(numbers: list[float]) -> float:
    time.sleep(50)
    return sum(numbers)
