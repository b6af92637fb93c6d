"""Ids of predictions: whole numbers, as Clipper's are, that no other platform or run gives out."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Final

__all__ = ["query_ids"]

# JSON readers that have doubles only keep whole numbers up to 2^53 exact. Two of a thousand runs that each count a
# million ids from a random start below 2^52 overlap with a probability of 0.0002.
_STARTS: Final = 2**52


def query_ids() -> Callable[[], int]:
    """Gives the next id at each call."""
    return itertools.count(secrets.randbelow(_STARTS) + 1).__next__
