"""Records as tables: one column for each key, and one for each model under `answers` and `losses`; CSV and Parquet.

Columns are known only after the last record, so that the records wait in a temporary file. Parquet is written by
pyarrow, which is no dependency of this package.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final, Literal, Protocol

from clipper.cli.problems import CommandFailed

__all__ = ["Table", "pyarrow", "spooled", "write_csv", "write_parquet"]

Kind = Literal["null", "bool", "int", "float", "text", "numbers", "json"]
"""What the values of a column are. `numbers`: lists of numbers. `json`: anything else, as JSON text."""

_BY_MODEL: Final = ("answers", "losses")  # tables by model, whose columns are "answers.digits/svm"
_ROWS_AT_ONCE: Final = 10_000  # a row group; ten megabytes with inputs of a kilobyte
_INT64: Final = range(-(1 << 63), 1 << 63)


class Table:
    """Records in a temporary file, and the kind of each of their columns."""

    def __init__(self, file: IO[str], columns: Iterable[str]) -> None:
        self._file = file
        self.kinds: dict[str, Kind] = dict.fromkeys(columns, "null")
        self.rows = 0

    def add(self, record: Mapping[str, Any]) -> None:
        row = _flat(record)
        for column, value in row.items():
            self.kinds[column] = _common(self.kinds.get(column, "null"), _kind(value))
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows += 1

    @property
    def columns(self) -> list[str]:
        """In the order of the records' keys, those of models last."""
        return sorted(self.kinds, key=lambda column: [column.startswith(f"{group}.") for group in reversed(_BY_MODEL)])

    def read(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return map(json.loads, self._file)


@contextmanager
def spooled(records: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> Iterator[Table]:
    """All records as a table with at least these columns; its file is gone after the block."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        table = Table(file, columns)
        for record in records:
            table.add(record)
        yield table


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        if key in _BY_MODEL and isinstance(value, Mapping):
            row |= {f"{key}.{model}": one for model, one in value.items()}
        else:
            row[key] = value
    return row


def _kind(value: Any) -> Kind:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int" if value in _INT64 else "float"
        case float():
            return "float"
        case str():
            return "text"
        case list() if all(type(one) in (int, float) for one in value):
            return "numbers"
        case _:
            return "json"


def _common(one: Kind, other: Kind) -> Kind:
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "float" if {one, other} == {"int", "float"} else "json"


class TextWriter(Protocol):
    def write(self, text: str, /) -> Any: ...


def write_csv(table: Table, out: TextWriter) -> None:
    """With a heading; lists and objects as JSON, nothing as an empty cell."""
    writer = csv.writer(out, lineterminator="\n")
    columns = table.columns
    writer.writerow(columns)
    for row in table.read():
        writer.writerow([_cell(row.get(column)) for column in columns])


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def pyarrow() -> Any:
    """The package of that name. Raises CommandFailed where it is not installed."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise CommandFailed(
            "Parquet needs pyarrow, which is not installed here",
            hint="pip install 'clipper[parquet]', or take --format jsonl or csv",
            code="missing_package",
        ) from None


def write_parquet(table: Table, out: IO[bytes]) -> None:
    """Typed columns, in row groups. Raises CommandFailed without pyarrow."""
    arrow = pyarrow()
    parquet = importlib.import_module("pyarrow.parquet")
    types = {
        "null": arrow.null(), "bool": arrow.bool_(), "int": arrow.int64(), "float": arrow.float64(),
        "text": arrow.string(), "json": arrow.string(), "numbers": arrow.list_(arrow.float64()),
    }  # fmt: skip
    columns = table.columns
    schema = arrow.schema([(column, types[table.kinds[column]]) for column in columns])
    with parquet.ParquetWriter(out, schema) as writer:
        rows = table.read()
        while part := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            arrays = [_array(arrow, table.kinds[c], [row.get(c) for row in part], types) for c in columns]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def _array(arrow: Any, kind: Kind, values: Sequence[Any], types: Mapping[str, Any]) -> Any:
    if kind == "json":
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    elif kind == "float":
        values = [None if value is None else float(value) for value in values]
    return arrow.array(values, type=types[kind])
