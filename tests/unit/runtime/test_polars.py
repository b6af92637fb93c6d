"""Tables and columns of polars as answers: records and lists, or a refusal that says what to write."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from clipper_runtime.frames import to_rows
from tests.unit.runtime.test_frames import JSON, MSGPACK, encoded, refusal


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pl.DataFrame({"a": [1, None], "b": ["x", "y"]}), [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]),
        (pl.DataFrame({"a": [[1, 2]], "b": [{"k": date(2024, 1, 2)}]}), [{"a": [1, 2], "b": {"k": "2024-01-02"}}]),
        (pl.DataFrame({"a": []}), []),
        (pl.Series([1, None]), [1, None]),
        (pl.Series(["x"], dtype=pl.Categorical), ["x"]),
        (pl.Series([timedelta(seconds=1)]), ["PT1S"]),
        (pl.Series([1_000_000_001]).cast(pl.Datetime("ns")), ["1970-01-01T00:00:01.000000001"]),
        (pl.Series([1, None]).cast(pl.Datetime("ns", "UTC")), ["1970-01-01T00:00:00.000000001+00:00", None]),
        (pl.Series([1_000]).cast(pl.Datetime("ns")), ["1970-01-01T00:00:00.000001"]),
        ({"rows": [pl.DataFrame({"a": [1]})]}, {"rows": [[{"a": 1}]]}),
    ],
)
def test_a_value_of_polars_is_plain_data(value: Any, expected: Any, accept: str) -> None:
    assert encoded(value, accept) == expected


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (pl.LazyFrame({"a": [1]}), "return .collect()"),
        (pl.col("a"), "a polars Expr has no form"),
        (pl.Series([1]).cast(pl.Duration("ns")), "return a number"),
    ],
)
def test_what_polars_cannot_say_in_a_list_is_refused(value: Any, part: str) -> None:
    assert part in refusal(value, JSON)


def test_a_batch_gets_its_rows() -> None:
    assert to_rows(pl.DataFrame({"a": [1, 2]})) == [{"a": 1}, {"a": 2}]
