"""Signatures that can be served, and the refusals of those that cannot."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Union

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from clipper_runtime.hint_checks import SchemaError
from clipper_runtime.json_schemas import returns_schema
from clipper_runtime.schema import read_signature


def read(function: Callable[..., Any], *, batched: bool = False, streaming: bool = False) -> Any:
    return read_signature(function, batched=batched, streaming=streaming)


def refusal(function: Callable[..., Any], **options: bool) -> str:
    with pytest.raises(SchemaError) as caught:
        read(function, **options)
    return str(caught.value)


def test_entries_of_lists_are_what_one_invocation_of_a_batched_function_takes() -> None:
    def function(
        a: list[int],
        b: list,
        c,
        d: Annotated[list[str], "texts"],
        e: list[npt.NDArray[np.float32]],
        f: list[int] | None = None,
        g: list[int] = [5],  # noqa: B006
    ): ...

    types = {p.name: p.type for p in read(function, batched=True).parameters}
    assert [types[name] for name in "abcd"] == [int, Any, Any, str]
    assert types["e"] == npt.NDArray[np.float32]
    defaults = {p.name: p.default for p in read(function, batched=True).parameters if not p.required}
    assert defaults == {"f": None, "g": 5}


@pytest.mark.parametrize("hint", [int, np.ndarray, npt.NDArray[np.float32], dict[str, int], tuple[int, ...]])
def test_a_batched_parameter_that_is_no_list_is_refused_with_what_to_write(hint: Any) -> None:
    def function(texts): ...

    function.__annotations__ = {"texts": hint}
    message = refusal(function, batched=True)
    assert "'texts'" in message
    assert "write texts: list[" in message


def test_a_batched_default_must_be_one_invocations_default() -> None:
    def function(x: list[int], k: list[int] = [1, 2]): ...  # noqa: B006

    assert "'k'" in refusal(function, batched=True)


def test_a_batched_function_without_parameters_is_refused() -> None:
    def function() -> list[int]:
        return []

    assert "needs a parameter" in refusal(function, batched=True)


def test_arguments_without_names_are_refused() -> None:
    assert "*args" in refusal(lambda *args: None)
    assert "**rest" in refusal(lambda x, **rest: None)


def test_a_type_that_no_request_can_build_is_refused_by_name() -> None:
    def direct(s: socket.socket): ...
    def inside(s: dict[str, list[socket.socket]]): ...
    def union(s: Union[np.ndarray, int]): ...  # noqa: UP007

    assert "socket.socket" in refusal(direct)
    assert "socket.socket" in refusal(inside)
    assert "'s'" in refusal(union)


def test_hints_that_cannot_be_resolved_are_refused() -> None:
    def function(x): ...

    function.__annotations__ = {"x": "Nowhere"}
    assert "'Nowhere'" in refusal(function)


def test_hints_of_a_closure_may_name_what_it_closes_over() -> None:
    class Local(msgspec.Struct):
        a: int

    def function(x: Local) -> Any:
        return Local

    assert read(function).parameters[0].type is Local


def test_a_default_of_none_allows_null() -> None:
    def function(x: int = None): ...  # noqa: RUF013

    struct = read(function).struct
    assert msgspec.json.decode(b'{"x": null}', type=struct).x is None


def test_a_mutable_default_is_the_functions_own_object_as_in_python() -> None:
    shared = [1, 2]

    def function(x: list[int] = shared): ...

    struct = read(function).struct
    assert struct().x is shared


def test_the_self_of_a_method_is_not_a_parameter() -> None:
    class Model:
        def __call__(self, x: int) -> str: ...

    signature = read(Model())
    assert [p.name for p in signature.parameters] == ["x"]
    assert (signature.parameters[0].type, signature.returns) == (int, str)


def test_what_a_stream_returns_is_one_of_its_items() -> None:
    def sync() -> Iterator[int]: ...
    def asynchronous() -> AsyncIterator[str]: ...

    assert read(sync, streaming=True).returns is int
    assert read(asynchronous, streaming=True).returns is str


def test_schemas_stand_alone_even_of_types_that_contain_themselves() -> None:
    def outer() -> Outer: ...
    def tree_of() -> Tree: ...

    schema = returns_schema(read(outer))
    assert schema["properties"]["inner"] == {"$ref": "#/$defs/Inner"}
    assert schema["$defs"].keys() == {"Inner"}
    tree = returns_schema(read(tree_of))
    assert tree["$ref"] == "#/$defs/Tree"
    assert tree["$defs"].keys() == {"Tree"}


class Inner(msgspec.Struct):
    n: int


class Outer(msgspec.Struct):
    inner: Inner


class Tree(msgspec.Struct):
    children: list[Tree]
