from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.cli.exposition import Series, increase, parse, quantile, total
from clipper_platform.metrics import Metrics


def test_samples_are_read_with_and_without_labels() -> None:
    text = '# HELP a Some words.\n# TYPE a counter\na_total 3.0\n\nb{x="1",y="two"} 1e-3 1700000000\nc{x="1",} +Inf\n'
    assert parse(text) == {
        Series("a_total", ()): 3.0,
        Series("b", (("x", "1"), ("y", "two"))): 0.001,
        Series("c", (("x", "1"),)): math.inf,
    }


@pytest.mark.parametrize("line", ["<html>", 'a{x="1} 2', "a{x=1} 2", "a one", "a"])
def test_what_is_no_metric_is_refused_with_the_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(line)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_label_holds_the_platforms_own_exposition_is_read_back(value: str) -> None:
    metrics = Metrics()
    metrics.invocations.child(value, "1", "200").inc(7)
    metrics.batch_size.child(value, "1").observe(3)
    samples = parse(b"".join(metrics.slices()).decode())
    assert total(samples, "clip_invocations_total", lambda s: s.label("function") == value) == 7
    assert total(samples, "clip_batch_size_sum", lambda s: s.label("function") == value) == 3


def test_a_counter_that_shrank_began_anew() -> None:
    a, b, c = (Series(name, ()) for name in "abc")
    assert increase({a: 5.0, b: 9.0}, {a: 8.0, b: 2.0, c: 4.0}) == {a: 3.0, b: 2.0, c: 4.0}


def test_without_observations_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.5) is None


def test_beyond_the_last_bound_only_that_bound_is_known() -> None:
    assert quantile({1.0: 1.0, math.inf: 100.0}, 0.99) == 1.0


@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any),
    st.floats(0.01, 1.0),
)
def test_a_quantile_lies_in_the_bucket_that_holds_its_rank(counts: list[int], q: float) -> None:
    bounds = [0.001, 0.01, 0.1, 1.0]
    cumulative = [float(n) for n in accumulate(counts)]
    value = quantile(dict(zip(bounds, cumulative, strict=True)), q)
    rank = q * cumulative[-1]
    place = next(i for i, n in enumerate(cumulative) if n >= rank and n > (cumulative[i - 1] if i else 0))
    assert value is not None
    assert (bounds[place - 1] if place else 0.0) <= value <= bounds[place] * (1 + 1e-9)
