"""A module that only this machine has: what a closure takes from it must travel by value."""

from __future__ import annotations

import math

import clipper

FACTOR = 3


def scaled(n: int) -> float:
    return math.sqrt(n) * FACTOR


@clipper.function(max_batch_size=4)
def doubled(n: list[int]) -> list[int]:
    return [2 * one for one in n]
