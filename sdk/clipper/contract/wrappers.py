"""What a callable wraps: the way through `functools.partial`, `functools.wraps`, methods and instances."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["declaring_function", "layers", "name_of"]

_MAX_LAYERS: Final = 100


def layers(call: Any) -> Iterator[Any]:
    """The callable, and what it wraps: outermost first."""
    for _ in range(_MAX_LAYERS):
        yield call
        if isinstance(call, functools.partial):
            call = call.func
        elif callable(getattr(call, "__wrapped__", None)):
            call = call.__wrapped__
        elif inspect.ismethod(call):
            call = call.__func__
        elif not inspect.isroutine(call) and not isinstance(call, type) and callable(call):
            call = type(call).__call__  # an instance
        else:
            return


def declaring_function(call: Any) -> Any:
    """The innermost callable, whose hints are the schema."""
    *_, innermost = layers(call)
    return innermost


def name_of(call: Any) -> str:
    """The name of a function or class, of what a partial wraps, and of an instance's class."""
    for layer in layers(call):
        name = getattr(layer, "__name__", None)
        if isinstance(name, str):
            return name
        if not isinstance(layer, functools.partial):
            return type(layer).__name__
    return ""
