"""A function that waits, as one for a database does: replicas, not cores, are what it needs more of."""

import time


def work(n: int) -> int:
    time.sleep(0.02)
    return n * n
