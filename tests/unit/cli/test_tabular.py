"""Records as tables: their columns, the kinds of their values, and the same values back from CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow.parquet as parquet
import pytest

from clipper.cli.tabular import spooled, write_csv, write_parquet


def columns_of(*records: dict[str, Any], base: tuple[str, ...] = ()) -> list[str]:
    with spooled(records, base) as table:
        return table.columns


def from_parquet(*records: dict[str, Any]) -> Any:
    out = io.BytesIO()
    with spooled(records, ()) as table:
        write_parquet(table, out)
    return parquet.read_table(io.BytesIO(out.getvalue()))


def test_models_have_columns_after_all_others() -> None:
    first = {"answers": {"a/f": 1}, "losses": {"a/f": 0.0}, "label": 1}
    second = {"answers": {"b/g@2": 1}, "losses": {}, "label": 1, "extra": None}
    assert columns_of(first, second, base=("time",)) == [
        "time",
        "label",
        "extra",
        "answers.a/f",
        "answers.b/g@2",
        "losses.a/f",
    ]


@pytest.mark.parametrize(
    ("values", "kind", "back"),
    [
        ([1, 2, None], "int64", [1, 2, None]),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([True, None], "bool", [True, None]),
        (["a", "é"], "string", ["a", "é"]),
        ([[1, 2.5], []], "list<element: double>", [[1.0, 2.5], []]),
        ([1, "a"], "string", ["1", '"a"']),
        ([1, True], "string", ["1", "true"]),
        ([[1], ["a"]], "string", ["[1]", '["a"]']),
        ([[[1]], None], "string", ["[[1]]", None]),
        ([{"a": 1}], "string", ['{"a": 1}']),
        ([None, None], "null", [None, None]),
        ([1 << 63, 1], "double", [float(1 << 63), 1.0]),
    ],
    ids=str,
)
def test_a_column_of_parquet_has_the_type_of_its_values(values: list[Any], kind: str, back: list[Any]) -> None:
    table = from_parquet(*({"v": value} for value in values))
    assert str(table.schema.field("v").type).replace("item:", "element:") == kind
    assert table.column("v").to_pylist() == back


def test_many_records_become_several_row_groups() -> None:
    table = from_parquet(*({"n": n, "late": "x" if n == 19_999 else None} for n in range(20_000)))
    assert table.column("n").to_pylist() == list(range(20_000))
    assert table.column("late").to_pylist()[-1] == "x"


def test_csv_keeps_texts_with_every_mark_in_them() -> None:
    texts = ["a,b", 'say "x"', "two\nlines", "", "é"]
    out = io.StringIO()
    with spooled([{"t": text, "n": None, "l": [1, "a"]} for text in texts], ()) as table:
        write_csv(table, out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert [row["t"] for row in rows] == texts
    assert {row["n"] for row in rows} == {""}
    assert json.loads(rows[0]["l"]) == [1, "a"]


def test_no_records_have_the_columns_that_are_always_there() -> None:
    out = io.StringIO()
    with spooled([], ("time", "label")) as table:
        write_csv(table, out)
    assert out.getvalue() == "time,label\n"
