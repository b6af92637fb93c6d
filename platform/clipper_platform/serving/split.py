"""Shares of calls among versions, by percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["Split"]

T = TypeVar("T")


class Split(Generic[T]):
    """Smooth weighted round robin, as in nginx: exact over every 100 calls, and even within them.

    With the weights 90 and 10 every tenth call goes to the second, never two in a row.
    """

    __slots__ = ("_credits", "_shares", "_total")

    def __init__(self, shares: Sequence[tuple[T, int]]) -> None:
        self._shares = [(item, weight) for item, weight in shares if weight > 0]
        if not self._shares:
            raise ValueError("a split needs a weight above 0")
        self._total = sum(weight for _, weight in self._shares)
        self._credits = [0] * len(self._shares)

    def next(self) -> T:
        best = 0
        for index, (_, weight) in enumerate(self._shares):
            self._credits[index] += weight
            if self._credits[index] > self._credits[best]:
                best = index
        self._credits[best] -= self._total
        return self._shares[best][0]
