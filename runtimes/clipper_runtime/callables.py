"""What a target does when it is called, seen through its wrappers: signature, hints, async or not, a stream or not.

`functools.partial` and `functools.wraps` hide the function that declares all this. They are followed inwards, and where
a plain wrapper stands over an async function or a generator, what it returns is awaited or iterated.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Literal, get_origin

from clipper.contract.wrappers import declaring_function, layers

__all__ = ["Mode", "by_position", "mode_of", "signature_of", "with_results_awaited"]

_SYNC_STREAMS = (collections.abc.Iterator, collections.abc.Generator)
_ASYNC_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncGenerator)
# Names in the code of a plain wrapper that runs the async function to its end itself.
_RUNNERS: Final = frozenset({"run", "run_until_complete", "run_coroutine_threadsafe", "async_to_sync", "run_sync"})


class Mode(typing.NamedTuple):
    """`inherited`: a plain wrapper stands over the function that is async or a generator, and may return otherwise."""

    kind: Literal["sync", "async"]
    streaming: bool
    inherited: bool = False


def mode_of(call: Callable[..., Any]) -> Mode:
    """How to run it. A plain function annotated to return an iterator streams as a generator does."""
    wrappers: list[Any] = []
    for layer in layers(call):
        found = _own_mode(layer)
        if found is not None:
            kind, streaming = found
            if not wrappers:
                return Mode(kind, streaming)
            runs_itself = kind == "async" and not streaming and any(map(_runs_coroutines, wrappers))
            return Mode("sync" if runs_itself else kind, streaming, inherited=True)
        if inspect.isfunction(layer) and hasattr(layer, "__wrapped__"):
            wrappers.append(layer)
    returned = get_origin(_return_hint(declaring_function(call)))
    if returned in _ASYNC_STREAMS:
        return Mode("async", True)
    return Mode("sync", returned in _SYNC_STREAMS)


def _own_mode(layer: Any) -> tuple[Literal["sync", "async"], bool] | None:
    if inspect.isasyncgenfunction(layer):
        return "async", True
    if inspect.iscoroutinefunction(layer):
        return "async", False
    return ("sync", True) if inspect.isgeneratorfunction(layer) else None


def _runs_coroutines(wrapper: Any) -> bool:
    return not _RUNNERS.isdisjoint(wrapper.__code__.co_names)


def _return_hint(call: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(call).get("return")
    except Exception:  # noqa: BLE001 - read_signature reports the same error, in the right phase
        return None


def signature_of(call: Callable[..., Any]) -> inspect.Signature:
    """The parameters by which it can be called. Raises TypeError or ValueError.

    Those of the wrapped function, unless the wrapper names its own: it may pass the others itself.
    """
    own = _own_signature(call)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own.parameters.values()):
        return inspect.signature(call)
    return own


def _own_signature(call: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(call, follow_wrapped=False)
    except ValueError:  # written in C, such as functools.cache
        return inspect.signature(call)


def by_position(call: Callable[..., Any], names: list[str], keyword_only: list[str]) -> Callable[..., Any]:
    """`call` with all its arguments accepted by position. `names`: the parameters; `keyword_only`: the last of them."""
    own = _own_signature(call).parameters.values()
    positional = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in own)
    if not any(p.kind is p.VAR_POSITIONAL for p in own) and positional < len(names) - len(keyword_only):
        keyword_only = names[positional:]  # a wrapper that takes **kwargs only
    if not keyword_only:
        return call
    plain, last = len(names) - len(keyword_only), list(keyword_only)

    def call_by_position(*arguments: Any) -> Any:
        return call(*arguments[:plain], **dict(zip(last, arguments[plain:], strict=True)))

    return call_by_position


def with_results_awaited(call: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
    """`call` as its mode says, whatever its wrapper returns: an awaitable or a value, an iterator or a list."""
    if not mode.inherited:
        return call
    if mode.streaming:
        return _async_items(call) if mode.kind == "async" else _items(call)
    if mode.kind == "async":
        return _awaited(call)
    return _run(call)


def _awaited(call: Callable[..., Any]) -> Callable[..., Any]:
    async def awaited(*arguments: Any) -> Any:
        value = call(*arguments)
        return await value if inspect.isawaitable(value) else value

    return awaited


def _run(call: Callable[..., Any]) -> Callable[..., Any]:
    async def await_value(value: Any) -> Any:
        return await value

    def run(*arguments: Any) -> Any:
        value = call(*arguments)
        if not inspect.isawaitable(value):
            return value
        import asyncio  # costs 40 ms; the code of an async function has loaded it already

        return asyncio.run(await_value(value))

    return run


def _items(call: Callable[..., Any]) -> Callable[..., Any]:
    def items(*arguments: Any) -> Iterator[Any]:
        yield from _as_items(call(*arguments))

    return items


def _async_items(call: Callable[..., Any]) -> Callable[..., Any]:
    async def items(*arguments: Any) -> AsyncIterator[Any]:
        values = call(*arguments)
        if inspect.isawaitable(values):
            values = await values
        if hasattr(values, "__aiter__"):
            async for item in values:
                yield item
        else:
            for item in _as_items(values):
                yield item

    return items


def _as_items(values: Any) -> Any:
    if isinstance(values, (list, tuple)) or hasattr(values, "__next__"):
        return values
    raise TypeError(
        f"the wrapper of a generator returned {type(values).__name__}, not its items: "
        "leave out functools.wraps, or return an iterator"
    )
