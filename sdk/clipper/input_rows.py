"""Rows of arguments from files: JSON lines, CSV, Parquet and `.npy`.

Each row becomes one line of JSON, the function's keyword arguments. A row that cannot become one keeps its place, as a
line that is no JSON, so that row numbers are those of the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["SUFFIXES", "BadRow", "InputRows", "RowsError"]

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".parquet", ".npy")
_PIECE_BYTES: Final = 1024 * 1024
_PARQUET_ROWS: Final = 1000
_REMEMBERED: Final = 1000


class RowsError(ValueError):
    """A file that has no rows for this function; the message says what to do."""


class BadRow(ValueError):
    """A row that cannot be read, and why."""


class InputRows:
    """The rows of one file for one function. `parameters`: the schema of its parameters.

    `bad`: by row number, from 0, why rows that were read could not become arguments; the first thousand.
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self.path = path
        self.bad: dict[int, str] = {}
        self._types: Mapping[str, Any] = parameters.get("properties") or {}
        self._readers = {
            ".jsonl": self._json_lines, ".ndjson": self._json_lines, ".csv": self._csv,
            ".parquet": self._parquet, ".npy": self._npy,
        }  # fmt: skip
        if path.suffix.lower() not in self._readers:
            raise RowsError(f"{path.name} is of no kind that is read: {', '.join(SUFFIXES)}")

    def source(self) -> str:
        """The digest of what is in the file. Raises OSError."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
        return f"sha256:{digest.hexdigest()}"

    def __iter__(self) -> Iterator[bytes]:
        """One line of JSON for each row. Raises RowsError, OSError."""
        for number, row in enumerate(self._readers[self.path.suffix.lower()]()):
            if isinstance(row, BadRow):
                if len(self.bad) < _REMEMBERED:
                    self.bad[number] = str(row)
                yield b"?"
            else:
                yield row

    def _json_lines(self) -> Iterator[bytes | BadRow]:
        with self.path.open("rb") as file:
            for line in file:
                text = line.strip()
                if not text:
                    continue
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError) as error:
                    yield BadRow(f"not JSON: {error}")
                    continue
                yield text if isinstance(value, dict) else self._only(value)

    def _csv(self) -> Iterator[bytes | BadRow]:
        with self.path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file)
            header = next(reader, None)
            if header is None:
                return
            if unknown := [name for name in header if self._types and name not in self._types]:
                raise RowsError(
                    f"{self.path.name} has columns that are no parameters: {', '.join(unknown[:5])}; "
                    f"the function takes {', '.join(self._types)}"
                )
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    yield BadRow(f"{len(cells)} cells, and {len(header)} columns")
                    continue
                try:
                    yield _line({name: self._cell(name, cell) for name, cell in zip(header, cells, strict=True)})
                except BadRow as bad:
                    yield bad

    def _cell(self, name: str, text: str) -> Any:
        """A cell as the parameter's type wants it. Raises BadRow."""
        kind = (self._types.get(name) or {}).get("type")
        if kind == "string":
            return text
        try:
            value = json.loads({"True": "true", "False": "false", "": "null"}.get(text, text))
        except (ValueError, RecursionError):
            if kind is None:
                return text
            raise BadRow(f"{name} = {text[:60]!r} is no {kind}") from None
        return float(value) if kind == "number" and type(value) is int else value

    def _parquet(self) -> Iterator[bytes | BadRow]:
        try:
            from pyarrow import parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise RowsError("Parquet files need a package: pip install pyarrow") from None
        try:
            file = parquet.ParquetFile(self.path)
        except Exception as error:
            raise RowsError(f"{self.path.name} is no Parquet file: {error}") from error
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                yield _line_or_bad(row)

    def _npy(self) -> Iterator[bytes | BadRow]:
        try:
            import numpy
        except ImportError:
            raise RowsError(".npy files need a package: pip install numpy") from None
        try:
            array = numpy.load(self.path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise RowsError(f"{self.path.name} is no array that can be read: {error}") from None
        if not array.shape:
            raise RowsError(f"{self.path.name} holds a single value, and no rows")
        for row in array:
            yield self._only(row.tolist())

    def _only(self, value: Any) -> bytes | BadRow:
        """A value that is no object is the argument for the only parameter."""
        if len(self._types) != 1:
            return BadRow(f"not an object of arguments: the function takes {', '.join(self._types) or 'none'}")
        return _line_or_bad({next(iter(self._types)): value})


def _line_or_bad(row: Mapping[str, Any]) -> bytes | BadRow:
    try:
        return _line(row)
    except BadRow as bad:
        return bad


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"it has no JSON form: {error}") from None
