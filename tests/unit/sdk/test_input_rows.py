"""Rows of arguments from files of several kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from clipper.input_rows import InputRows, RowsError

ONE = {"properties": {"x": {"type": "number"}}}
TWO = {"properties": {"name": {"type": "string"}, "n": {"type": "integer"}, "ok": {"type": "boolean"}, "v": {}}}


def read(path: Path, parameters: dict[str, Any] | None = None) -> tuple[list[Any], dict[int, str]]:
    """Arguments by row, None for a bad one; and why those are bad."""
    rows = InputRows(path, ONE if parameters is None else parameters)
    found = [None if line == b"?" else json.loads(line) for line in rows]
    assert all(b"\n" not in line for line in rows)
    return found, rows.bad


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_of_json_are_arguments_or_the_only_one(tmp_path: Path) -> None:
    file = written(tmp_path / "r.jsonl", '{"x": 1}\n\n 2.5 \n[1, 2]\n"a\\nb"\nnope\n{"x": \n')
    found, bad = read(file)
    assert found == [{"x": 1}, {"x": 2.5}, {"x": [1, 2]}, {"x": "a\nb"}, None, None]
    assert set(bad) == {4, 5}
    assert bad[4].startswith("not JSON: ")


def test_a_value_is_no_row_of_a_function_with_several_parameters(tmp_path: Path) -> None:
    found, bad = read(written(tmp_path / "r.ndjson", '{"n": 1}\n3\n'), TWO)
    assert found == [{"n": 1}, None]
    assert bad == {1: "not an object of arguments: the function takes name, n, ok, v"}


def test_cells_of_csv_are_read_as_the_parameters_want_them(tmp_path: Path) -> None:
    text = 'name,n,ok,v\n"7, or so",7,true,7\n8,8,False,text\n,9,true,"[1, 2]"\nx,seven,true,1\nx,1\nx,1,maybe,1\n'
    found, bad = read(written(tmp_path / "r.CSV", text), TWO)
    assert found == [
        {"name": "7, or so", "n": 7, "ok": True, "v": 7},
        {"name": "8", "n": 8, "ok": False, "v": "text"},
        {"name": "", "n": 9, "ok": True, "v": [1, 2]},
        None,
        None,
        None,
    ]
    assert bad == {3: "n = 'seven' is no integer", 4: "2 cells, and 4 columns", 5: "ok = 'maybe' is no boolean"}


def test_a_whole_number_in_csv_is_a_float_where_the_parameter_is(tmp_path: Path) -> None:
    assert read(written(tmp_path / "r.csv", "\ufeffx\n1\n2.5\n"))[0] == [{"x": 1.0}, {"x": 2.5}]


def test_columns_that_are_no_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="columns that are no parameters: y; the function takes x"):
        read(written(tmp_path / "r.csv", "x,y\n1,2\n"))


def test_rows_of_an_array_are_the_only_argument(tmp_path: Path) -> None:
    numpy.save(tmp_path / "flat.npy", numpy.array([1.5, numpy.nan]))
    numpy.save(tmp_path / "deep.npy", numpy.arange(4, dtype=numpy.int8).reshape(2, 2))
    found, bad = read(tmp_path / "flat.npy")
    assert found == [{"x": 1.5}, None]
    assert bad[1].startswith("it has no JSON form")
    assert read(tmp_path / "deep.npy")[0] == [{"x": [0, 1]}, {"x": [2, 3]}]


@pytest.mark.parametrize("value", [numpy.array(3.0), numpy.array([{}], dtype=object)])
def test_an_array_without_rows_or_of_objects_is_refused(tmp_path: Path, value: Any) -> None:
    numpy.save(tmp_path / "r.npy", value, allow_pickle=True)
    with pytest.raises(RowsError):
        read(tmp_path / "r.npy")


def test_rows_of_parquet_are_arguments(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"name": ["a", "b"], "n": [1, None]}), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet", TWO)[0] == [{"name": "a", "n": 1}, {"name": "b", "n": None}]


def test_a_file_of_another_kind_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"r.txt is of no kind that is read: .jsonl"):
        InputRows(tmp_path / "r.txt", ONE)


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(written(tmp_path / name, ""))[0] == []


def test_the_source_is_what_is_in_the_file(tmp_path: Path) -> None:
    one, same, other = (written(tmp_path / f"{n}.jsonl", text) for n, text in enumerate(["1", "1", "2"]))
    assert InputRows(one, ONE).source() == InputRows(same, ONE).source() != InputRows(other, ONE).source()
