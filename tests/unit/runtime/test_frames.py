"""Tables, columns and labels of pandas as answers: records and lists, or a refusal that says what to write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pandas as pd
import pytest

from clipper_runtime.codec import Rejected
from clipper_runtime.frames import to_rows
from tests.unit.runtime.test_codec import takes

JSON, MSGPACK = "application/json", "application/msgpack"


@dataclass
class Answer:
    table: Any


def encoded(value: Any, accept: str) -> Any:
    """The plain data that a client of the form reads."""
    body, content_type = takes(int).encode(value, accept)
    assert content_type == accept
    return json.loads(body) if accept == JSON else msgspec.msgpack.decode(body)


def refusal(value: Any, accept: str) -> str:
    with pytest.raises(Rejected) as caught:
        takes(int).encode(value, accept)
    return caught.value.message


FORMS = [
    (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
    (pd.DataFrame({"a": [1.5, 2.5]}), [{"a": 1.5}, {"a": 2.5}]),
    (pd.DataFrame({"a": []}), []),
    (pd.DataFrame(index=range(2)), [{}, {}]),
    (pd.DataFrame({"a": ["x", None, "x"]}, dtype="category"), [{"a": "x"}, {"a": None}, {"a": "x"}]),
    (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), [{"a": 1}, {"a": None}]),
    (pd.DataFrame({"a": pd.array([1.5, None], dtype="Float64")}), [{"a": 1.5}, {"a": None}]),
    (pd.DataFrame({"a": pd.array([True, None], dtype="boolean")}), [{"a": True}, {"a": None}]),
    (pd.DataFrame({"a": [pd.Timestamp("2024-01-02"), pd.NaT]}), [{"a": "2024-01-02T00:00:00"}, {"a": None}]),
    (pd.DataFrame({"a": pd.to_timedelta([1], unit="s")}), [{"a": "PT1S"}]),
    (pd.Series([1, 2]), [1, 2]),
    (pd.Series(["x", None]), ["x", None]),
    (pd.Series({"a": 1, "b": 2}), {"a": 1, "b": 2}),
    (pd.DataFrame({"a": [1], "b": ["x"]}).iloc[0], {"a": 1, "b": "x"}),
    (pd.Series(["x", "x", "y"]).value_counts(), {"x": 2, "y": 1}),
    (pd.Index(["a", "b"]), ["a", "b"]),
    (pd.date_range("2024-01-01", periods=1), ["2024-01-01T00:00:00"]),
    (pd.MultiIndex.from_tuples([("a", 1)]), [["a", 1]]),
    (pd.Categorical(["a", None]), ["a", None]),
    (pd.array([1, None], dtype="Int64"), [1, None]),
    (pd.Timestamp("2024-01-02T03:04:05"), "2024-01-02T03:04:05"),
    (pd.Timestamp("2024-01-02T03:04:05.000000001"), "2024-01-02T03:04:05.000000001"),
    (pd.Timedelta("1s"), "PT1S"),
    (pd.Period("2024-01"), "2024-01"),
    (pd.NA, None),
    (pd.NaT, None),
]


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
@pytest.mark.parametrize(("value", "expected"), FORMS)
def test_values_of_pandas_are_records_and_lists_alone_and_nested(value: Any, expected: Any, accept: str) -> None:
    assert encoded(value, accept) == expected
    assert encoded({"in": [value]}, accept) == {"in": [expected]}
    assert encoded(Answer(value), accept) == {"table": expected}


def test_a_table_with_numbered_columns_keeps_them_as_keys() -> None:
    assert encoded(pd.DataFrame([[1, 2]]), JSON) == [{"0": 1, "1": 2}]


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("value", "part"),
    [
        (pd.DataFrame({"a": [1, 2]}, index=["x", "y"]), 'to_dict("records")'),
        (pd.DataFrame({"a": [2, 1]}).sort_values("a"), 'to_dict("records")'),
        (pd.DataFrame({"a": [1], "b": [2]}).set_index("a"), 'to_dict("records")'),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "columns ['a', 'a']"),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), 'to_dict("records")'),
        (pd.Series([1, 2], index=[5, 6]), ".tolist()"),
        (pd.DataFrame({"a": [1]}).groupby("a"), "has no form"),
    ],
)
def test_what_records_cannot_carry_is_refused_with_what_to_write(value: Any, part: str, accept: str) -> None:
    assert part in refusal(value, accept)


def test_nan_of_a_column_of_floats_is_a_number_as_every_float_is() -> None:
    frame = pd.DataFrame({"a": [1.0, float("nan")]})
    assert "JSON cannot express" in refusal(frame, JSON)
    assert str(encoded(frame, MSGPACK)) == "[{'a': 1.0}, {'a': nan}]"


def test_the_rows_of_a_table_are_the_values_of_a_batch() -> None:
    assert to_rows(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert to_rows(pd.Series(["x", "y"])) == ["x", "y"]
    with pytest.raises(TypeError, match="labels"):
        to_rows(pd.Series({"a": 1, "b": 2}))  # sorted by label it would give callers the values of others
    with pytest.raises(TypeError, match="no rows"):
        to_rows(pd.Timestamp("2024-01-01"))


class ForeignTable:
    """A table of a library that the runtime does not know."""

    columns = ("a",)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise AssertionError("the labels would be lost")


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_a_table_of_an_unknown_library_is_not_read_as_an_array(accept: str) -> None:
    assert 'to_dict("records")' in refusal(ForeignTable(), accept)


def test_columns_whose_names_are_truth_values_are_refused() -> None:
    assert "distinct texts or numbers" in refusal(pd.DataFrame([[1]], columns=[True]), JSON)
