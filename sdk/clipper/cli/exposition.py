"""Parses Prometheus' text format and compares two readings of it. Pure functions.

It reads what the platform writes: samples with or without labels, and comments, which are skipped.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = ["Samples", "Series", "increase", "parse", "quantile", "total"]

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*\Z")
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"\s*(?:,|\Z)')
_ESCAPE = re.compile(r"\\(.)")
_MEANINGS = {"n": "\n"}  # any other escaped character means itself


class Series(NamedTuple):
    """A metric's name with one set of label values."""

    name: str
    labels: tuple[tuple[str, str], ...]

    def label(self, name: str) -> str:
        """The label's value; "" when there is no such label, as Prometheus defines it."""
        return next((value for key, value in self.labels if key == name), "")


Samples = Mapping[Series, float]


def parse(text: str) -> dict[Series, float]:
    """Every sample. Raises ValueError that quotes an invalid line."""
    samples: dict[Series, float] = {}
    for line in text.split("\n"):  # not splitlines: a label may hold other characters that Python takes as line ends
        if not line.strip() or line.startswith("#"):
            continue
        found = _SAMPLE.match(line)
        if found is None:
            raise ValueError(f"not a line of metrics: {line[:100]!r}")
        name, labels, value = found.groups()
        samples[Series(name, _labels(labels or "", line))] = float(value)  # a ValueError quotes the word
    return samples


def _labels(text: str, line: str) -> tuple[tuple[str, str], ...]:
    pairs, at = [], 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None:
            raise ValueError(f"not a line of metrics: {line[:100]!r}")
        name, value = found.groups()
        pairs.append((name, _ESCAPE.sub(lambda e: _MEANINGS.get(e[1], e[1]), value)))
        at = found.end()
    return tuple(pairs)


def increase(before: Samples, after: Samples) -> dict[Series, float]:
    """How much each counter grew. One that shrank or is new started at 0."""
    grown: dict[Series, float] = {}
    for series, value in after.items():
        was = before.get(series, 0.0)
        grown[series] = value - was if value >= was else value
    return grown


def total(samples: Samples, name: str, where: Callable[[Series], bool] = lambda _: True) -> float:
    """The sum of a metric's samples, of all or of some of its series."""
    return sum(value for series, value in samples.items() if series.name == name and where(series))


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """The `q` quantile of a histogram, from its cumulative counts by upper bound; None without observations.

    It is an estimate: observations are assumed to be spread evenly inside a bucket on a logarithmic scale, as the
    bounds are. Above the last finite bound the result is that bound.
    """
    bounds = sorted(buckets)
    count = buckets[bounds[-1]] if bounds else 0.0
    if count <= 0:
        return None
    rank, lower, below = q * count, 0.0, 0.0
    for upper in bounds:
        if buckets[upper] >= rank and buckets[upper] > below:
            if math.isinf(upper):
                return lower
            share = (rank - below) / (buckets[upper] - below)
            return float(lower * (upper / lower) ** share if lower else upper * share)
        lower, below = upper, buckets[upper]
    return lower
