"""Values of pandas, polars and pyarrow as plain data: a table is a list of records, a column a list of its values.

No library is imported here: a value of one exists only where user code imported it. Whatever a list cannot carry, such
as an index with labels, is refused with what to write, and never left out silently.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

__all__ = ["is_table_value", "to_plain", "to_rows"]

# Libraries whose tables and columns write themselves as lists, and the methods that do it.
_OWN_METHODS: Final = {"polars": ("to_dicts", "to_list"), "pyarrow": ("to_pylist", "as_py")}


def is_table_value(value: Any) -> bool:
    """Whether `to_plain` knows the value: a table, a column, a label or a missing value of one of the libraries."""
    return _library(type(value)) != "" or _is_foreign_table(value)


def to_plain(value: Any) -> Any:
    """A value for which `is_table_value` holds, as plain data. Raises TypeError, which says what to return instead."""
    kind = type(value)
    library = _library(kind)
    if library == "pandas":
        return _from_pandas(sys.modules["pandas"], value)
    if library == "polars" and hasattr(value, "collect"):
        raise TypeError(f"a polars {kind.__name__} is not computed yet; return .collect()")
    _check_names(kind, getattr(value, "column_names", ()))
    for method in _OWN_METHODS.get(library, ()):
        if hasattr(value, method):
            return getattr(_exact(value) if library == "polars" else value, method)()
    if library:
        raise TypeError(f"a {library} {kind.__name__} has no form as plain data; return a table or a column")
    raise TypeError(
        f"a {kind.__module__}.{kind.__qualname__} has labels that a list cannot carry; "
        'return plain data, as of to_dict("records") or .values'
    )


def _check_names(kind: type, names: Iterable[str]) -> None:
    """Refuse columns of one name: records would keep one of them. polars has none such."""
    names = list(names)
    if len(set(names)) < len(names):
        raise TypeError(f"the columns {names[:8]} of the {kind.__name__} cannot be the keys of records: rename them")


def _exact(value: Any) -> Any:
    """A table or column of polars with text for moments that are finer than a microsecond: its lists cut them."""
    polars = sys.modules["polars"]
    if isinstance(value, polars.DataFrame):
        return value.with_columns([_exact(column) for column in value.get_columns()])
    dtype = value.dtype
    if getattr(dtype, "time_unit", None) != "ns" or not (value.to_physical() % _NS_IN_US != 0).any():
        return value
    if dtype.base_type() is polars.Duration:
        raise TypeError("a duration of nanoseconds is not a number of microseconds: return a number")
    return value.dt.strftime("%Y-%m-%dT%H:%M:%S%.9f" + ("%:z" if dtype.time_zone else ""))


_NS_IN_US: Final = 1000


def to_rows(value: Any) -> list[Any]:
    """The rows of a table, or the entries of a column: one for each invocation of a batch. Raises TypeError."""
    rows = to_plain(value)
    if isinstance(rows, dict):
        raise TypeError(f"its index has labels, {_KEEP_SERIES}")
    if not isinstance(rows, list):
        raise TypeError(f"a {type(value).__name__} has no rows")
    return rows


def _library(kind: type) -> str:
    """The library whose class `kind` is or derives from, among those of this module."""
    for base in kind.__mro__:
        root = str(base.__module__).partition(".")[0]
        if root == "pandas" or root in _OWN_METHODS:
            return root
    return ""


def _is_foreign_table(value: Any) -> bool:
    """A table of a library that this module does not know: as an array, it would lose its labels."""
    return hasattr(value, "__array__") and (
        hasattr(value, "__dataframe__") or hasattr(value, "columns") or hasattr(value, "coords")
    )


def _from_pandas(pandas: Any, value: Any) -> Any:
    if isinstance(value, pandas.DataFrame):
        return _records(value)
    if isinstance(value, pandas.Series):
        return _series(value)
    if isinstance(value, (pandas.Index, pandas.api.extensions.ExtensionArray)):
        return _values(value)
    scalar = _scalar(value)
    if scalar is not value:
        return scalar
    raise TypeError(f"a pandas {type(value).__name__} has no form as plain data")


_KEEP_SERIES: Final = 'return .tolist() to leave them out, or .reset_index().to_dict("records") to keep them'


def _records(frame: Any) -> list[dict[Any, Any]]:
    """One dict for each row. Raises TypeError where the index or the columns have no place in it."""
    if not _counts_rows(frame.index):
        raise TypeError(
            "the index of the DataFrame is not 0, 1, 2, …, and records do not carry it; "
            'return .to_dict("records") to leave it out, or .reset_index().to_dict("records") to keep it'
        )
    names = frame.columns.tolist()
    texts = list(map(str, names))
    if not all(isinstance(name, (str, int)) and type(name) is not bool for name in names) or len(set(texts)) < len(
        texts
    ):
        raise TypeError(
            f"the columns {names[:8]} of the DataFrame cannot be the keys of records, which are distinct texts or "
            'numbers; rename them (.columns = [...]), then .to_dict("records")'
        )
    columns = [_values(frame.iloc[:, position]) for position in range(len(names))]
    if not columns:
        return [{} for _ in range(len(frame))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _series(series: Any) -> list[Any] | dict[str, Any]:
    """A list, or for a row or a count by name, whose index is distinct texts, a dict."""
    if _counts_rows(series.index):
        return _values(series)
    labels = series.index.tolist()
    if all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels):
        return dict(zip(labels, _values(series), strict=True))
    raise TypeError(f"the index of the Series is not 0, 1, 2, …, {_KEEP_SERIES}")


def _counts_rows(index: Any) -> bool:
    """Whether the index is the one that pandas gives by default: without a name, 0, 1, 2, …"""
    if index.name is not None or getattr(index.dtype, "kind", "O") not in "iu":
        return len(index) == 0
    if hasattr(index, "start"):  # a RangeIndex, without a list of its numbers
        return len(index) == 0 or (index.start == 0 and index.step == 1)
    return bool(index.tolist() == list(range(len(index))))


def _values(column: Any) -> list[Any]:
    """The entries of a column. Of floats, NaN is one of the numbers; elsewhere it stands for a missing value."""
    entries: list[Any] = column.tolist()
    kind = getattr(column.dtype, "kind", "O")
    if type(column.dtype).__module__.partition(".")[0] == "numpy" and kind in "biuf":
        return entries
    return list(map(_scalar, _tuples(entries)))


def _tuples(entries: list[Any]) -> Iterable[Any]:
    """The labels of a MultiIndex are tuples, whose parts are entries too."""
    return (list(map(_scalar, one)) if type(one) is tuple else one for one in entries)


def _scalar(value: Any) -> Any:
    """An entry: None for what is missing, datetimes and durations of the standard library where they are exact."""
    pandas = sys.modules["pandas"]
    if value is pandas.NA or value is pandas.NaT or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, pandas.Timestamp):
        if value.nanosecond:  # a datetime has microseconds
            return value.isoformat()
        return value.to_pydatetime() if datetime.min.year <= value.year <= datetime.max.year else value.isoformat()
    if isinstance(value, pandas.Timedelta):
        return value.isoformat() if value.nanoseconds else value.to_pytimedelta()
    if isinstance(value, (pandas.Period, pandas.Interval)):
        return str(value)
    return value
