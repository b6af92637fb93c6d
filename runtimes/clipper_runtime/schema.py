"""The schema of a function, from its type hints: the arguments and the value of one invocation."""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

import msgspec

from clipper.contract.wrappers import declaring_function
from clipper_runtime.callables import signature_of
from clipper_runtime.file_values import read_file_hints
from clipper_runtime.hint_checks import SchemaError, check_default, check_hint
from clipper_runtime.hints import plain_type
from clipper_runtime.pydantic_types import Adapter

__all__ = [
    "Parameter",
    "Signature",
    "read_signature",
]

_EMPTY: Final = inspect.Parameter.empty
_PLAIN = (type(None), bool, int, float, str, bytes)
_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.Iterable,
    collections.abc.AsyncIterable,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of one invocation. For a batched function `type` is the type of the list's entries.

    `adapter` decodes it where its hint mentions pydantic.
    """

    name: str
    type: Any
    keyword_only: bool
    required: bool
    default: Any = None
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """`returns`: the type of the value of one invocation or stream item; `doc`: the docstring's first paragraph."""

    parameters: tuple[Parameter, ...]
    returns: Any
    struct: type[msgspec.Struct]
    doc: str

    @property
    def body_parameter(self) -> Parameter | None:
        """The parameter that a body of raw bytes fills: the first one, if no other is required."""
        if not self.parameters or any(p.required for p in self.parameters[1:]):
            return None
        return self.parameters[0]


def read_signature(call: Callable[..., Any], *, batched: bool, streaming: bool, doc: str = "") -> Signature:
    """The signature of a function or a bound `__call__`. Raises SchemaError."""
    try:
        signature = signature_of(call)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"its signature cannot be read: {error}") from None
    hints = _hints(call)
    parameters = tuple(_parameter(p, hints.get(p.name, _EMPTY), batched) for p in signature.parameters.values())
    if batched and not parameters:
        raise SchemaError(
            "a function with max_batch_size above 1 needs a parameter, a list with an entry per invocation"
        )
    returns = _returned(hints.get("return", Any), batched=batched, streaming=streaming)
    struct = _struct(parameters)
    return Signature(parameters, returns, struct, doc)


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    function = declaring_function(call)
    if not isinstance(function, types.FunctionType):
        return {}
    try:
        # Deferred annotations are looked up in the globals, which lack the names that a closure captures.
        names = dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        names = {}
    try:
        return typing.get_type_hints(function, localns=names or None, include_extras=True)
    except Exception as error:  # annotations are expressions and may raise anything
        hint = ""
        if isinstance(error, NameError) and function.__module__ not in sys.modules:
            # Pickled by value: cloudpickle includes names that the code uses, not names inside a hint that is text.
            hint = "; hints of a function deployed from a notebook must be types: leave out the __future__ import"
        raise SchemaError(f"its type hints cannot be resolved: {type(error).__name__}: {error}{hint}") from error


def _parameter(parameter: inspect.Parameter, hint: Any, batched: bool) -> Parameter:
    name = parameter.name
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
        raise SchemaError(f"parameter {stars}{name}: write out each argument by name, as the schema needs")
    kind = Any if hint is _EMPTY else hint
    required, default = parameter.default is _EMPTY, parameter.default
    check_default(name, default)
    if batched:
        kind = _entry_type(name, kind)
        if not required:
            default = _entry_default(name, default)
    if default is None and not required and kind is not Any:
        kind = typing.Optional[kind]  # noqa: UP045 - not every form of type hint supports `|`
    kind = read_file_hints(kind)
    adapter = check_hint(name, kind)
    return Parameter(name, kind, parameter.kind is inspect.Parameter.KEYWORD_ONLY, required, default, adapter)


def _entry_type(name: str, hint: Any) -> Any:
    """T of `list[T]` and of `list[T] | None`."""
    if get_origin(hint) is typing.Annotated and not all(isinstance(one, str) for one in hint.__metadata__):
        raise SchemaError(
            f"parameter {name!r}: a constraint on the list of a batch would not be enforced; "
            f"with max_batch_size above 1, write it on the entries: list[Annotated[…]]"
        )
    bare = plain_type(hint)
    if bare is Any or bare is list:
        return Any
    if get_origin(bare) is list:
        return get_args(bare)[0]
    raise SchemaError(
        f"parameter {name!r} is annotated {_show(hint)}, but with max_batch_size above 1 every parameter is a list "
        f"with one entry per invocation: write {name}: list[{_show(hint)}]"
    )


def _entry_default(name: str, default: Any) -> Any:
    if default is None:
        return None
    if isinstance(default, list) and len(default) == 1:
        return default[0]
    raise SchemaError(
        f"parameter {name!r} has the default {default!r}, but with max_batch_size above 1 it stands for one "
        "invocation: write None, or a list with the one entry that an invocation without the argument gets"
    )


def _returned(hint: Any, *, batched: bool, streaming: bool) -> Any:
    if streaming:
        return get_args(hint)[0] if get_origin(hint) in _STREAMS and get_args(hint) else Any
    if batched:
        hint = get_args(hint)[0] if get_origin(hint) in (list, tuple, collections.abc.Sequence) else Any
    if get_origin(hint) in (typing.Union, types.UnionType):
        # An Exception instance in the list is an outcome of its invocation, not a value.
        rest = [a for a in get_args(hint) if not (isinstance(a, type) and issubclass(a, BaseException))]
        if len(rest) < len(get_args(hint)):
            return typing.Union[tuple(rest)] if rest else Any  # noqa: UP007 - the members are known at run time only
    return hint


def _struct(parameters: tuple[Parameter, ...]) -> type[msgspec.Struct]:
    members: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in parameters:
        kind = msgspec.Raw if parameter.adapter is not None else parameter.type
        if parameter.required:
            members.append((parameter.name, kind))
        else:
            members.append((parameter.name, kind, _default_field(parameter.default)))
    try:
        return msgspec.defstruct("Parameters", members, kw_only=True, forbid_unknown_fields=True)
    except (TypeError, ValueError) as error:
        raise SchemaError(str(error)) from None


def _default_field(default: Any) -> Any:
    if isinstance(default, _PLAIN) and default == default:  # NaN has no place in a JSON Schema
        return default
    # As in Python: one object, created with the function.
    return msgspec.field(default_factory=lambda: default)


def _show(hint: Any) -> str:
    if hint is _EMPTY:
        return "nothing"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
