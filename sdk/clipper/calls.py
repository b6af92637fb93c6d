"""Calls of a deployed function: one, many in order, in the background; blocking or awaited.

`Invoker` knows what a call needs (address, parameter names, whether items stream); `Call` is one in the background.
"""

from __future__ import annotations

import asyncio
import collections
import collections.abc
import inspect
import itertools
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from clipper import codec, errors
from clipper.address import FunctionAddress
from clipper.client import Client, shared_client
from clipper.contract.wrappers import declaring_function, layers, name_of

__all__ = ["DEFAULT_CONCURRENCY", "Call", "Invoker", "RemoteCall"]

T = TypeVar("T")

# Enough to fill batches and hide the round trip, few enough for a default queue of 1000 invocations.
DEFAULT_CONCURRENCY: Final = 32


@dataclass(frozen=True, slots=True)
class _Shape:
    """How arguments bind, whether items stream, and as what type a value (or an item) comes back."""

    bind: Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]
    streaming: bool
    returns: Any


class Invoker:
    """Calls one function. `wrapped` is its code, if the caller has it; otherwise its schema is fetched."""

    def __init__(
        self,
        address: FunctionAddress,
        *,
        wrapped: Callable[..., Any] | None = None,
        batched: bool = False,
        timeout_s: float | None = None,
        client: Client | None = None,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._client = client
        self._shape = _local_shape(wrapped, batched) if wrapped is not None else None

    @property
    def client(self) -> Client:
        return self._client or shared_client()

    # One

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value, or for a streaming function an iterator of its items."""
        client = self.client
        shape = self._shape
        if shape is None:
            shape = self._shape = _remote_shape(client.schema(self.address), str(self.address))
        arguments = shape.bind(args, kwargs)
        if shape.streaming:
            items = client.stream(self.address, arguments, timeout_s=self._timeout_s)
            return _typed(items, shape.returns)
        return codec.as_type(client.invoke(self.address, arguments, timeout_s=self._timeout_s), shape.returns)

    async def acall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value, or for a streaming function the list of its items."""
        client, shape = self.client, await self._ashape()
        arguments = shape.bind(args, kwargs)
        # Asked for one answer, the platform collects a stream's items: in MessagePack, which keeps arrays and bytes.
        value = await client.ainvoke(self.address, arguments, timeout_s=self._timeout_s)
        if shape.streaming and isinstance(value, list):
            return [codec.as_type(item, shape.returns) for item in value]
        return codec.as_type(value, shape.returns)

    async def aitems(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """The items of a streaming function, as they come. Raises TypeError for another."""
        client, shape = self.client, await self._ashape()
        if not shape.streaming:
            raise TypeError(f"{self.address} is not a generator: await it instead of iterating over it")
        stream = client.astream(self.address, shape.bind(args, kwargs), timeout_s=self._timeout_s)
        try:
            async for item in stream:
                yield codec.as_type(item, shape.returns)
        finally:
            await stream.aclose()

    async def _ashape(self) -> _Shape:
        if self._shape is None:
            self._shape = _remote_shape(await self.client.aschema(self.address), str(self.address))
        return self._shape

    # Many

    def map(self, inputs: Iterable[Any], *, concurrency: int, return_exceptions: bool) -> Iterator[Any]:
        """Values in the order of the inputs, at most `concurrency` calls open at once."""
        client = self.client
        window: collections.deque[Future[Any]] = collections.deque()
        try:
            for item in inputs:
                window.append(client.submit(self.acall(*_arguments(item))))
                while window and (window[0].done() or len(window) >= concurrency):
                    yield _outcome(window.popleft(), return_exceptions)
            while window:
                yield _outcome(window.popleft(), return_exceptions)
        finally:
            for future in window:
                future.cancel()

    async def amap(
        self, inputs: Iterable[Any] | AsyncIterable[Any], *, concurrency: int, return_exceptions: bool
    ) -> AsyncGenerator[Any, None]:
        """`map`, asynchronously."""
        window: collections.deque[asyncio.Task[Any]] = collections.deque()
        try:
            async for item in _each(inputs):
                window.append(asyncio.create_task(self.acall(*_arguments(item))))
                while window and (window[0].done() or len(window) >= concurrency):
                    yield await _settled(window, return_exceptions)
            while window:
                yield await _settled(window, return_exceptions)
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    # In the background

    def spawn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Start a call in the background."""
        if self._shape is not None:
            self._shape.bind(args, kwargs)  # a wrong argument raises here, not at `get`
        return Call(self.client.submit(self.acall(args, kwargs)), str(self.address))


class Call(Generic[T]):
    """An invocation in the background; the value of a streaming function is the list of its items.

    This process holds it: the request stays open while the call runs, and the end of the process cancels it. Keep the
    Call to read the outcome.
    """

    def __init__(self, future: Future[T], address: str) -> None:
        self._future = future
        self.address = address
        self.get: _Get[T] = _Get(future, address)

    def done(self) -> bool:
        """Whether it has a value or an error, or was cancelled."""
        return self._future.done()

    def cancel(self) -> bool:
        """Cancel the call and, by closing its connection, the invocation. False when it had ended before."""
        return self._future.cancel()

    def __repr__(self) -> str:
        state = "cancelled" if self._future.cancelled() else "done" if self._future.done() else "running"
        return f"<clipper.Call of {self.address}: {state}>"


class _Get(Generic[T]):
    """`call.get(timeout)` and `await call.get.aio(timeout)`."""

    def __init__(self, future: Future[T], address: str) -> None:
        self._future = future
        self._address = address

    def __call__(self, timeout: float | None = None) -> T:
        """The value. Raises TimeoutError after `timeout` seconds (the call goes on), ClipperError as `remote` does."""
        try:
            return self._future.result(timeout)
        except CancelledError:
            raise self._cancelled() from None

    async def aio(self, timeout: float | None = None) -> T:
        """The value, awaited; cancelling the wait leaves the call running."""
        inner = asyncio.ensure_future(asyncio.wrap_future(self._future))
        try:
            done, _ = await asyncio.wait([inner], timeout=timeout)
        finally:
            # The end of this wait must not cancel the call, and an error that nobody reads must not be logged.
            inner.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        if not done:
            raise TimeoutError(f"{self._address} has not answered within {timeout:g} s")
        if inner.cancelled():
            raise self._cancelled()
        return inner.result()

    def _cancelled(self) -> errors.CallCancelled:
        return errors.CallCancelled(f"the call of {self._address} was cancelled")


class RemoteCall(collections.abc.Coroutine[Any, Any, Any]):
    """The result of `.remote.aio(...)`: await it for the value, or iterate over it for a streaming function's items.

    It is a coroutine to asyncio, so that `create_task` and task groups take it. Nothing is sent before it is awaited.
    """

    def __init__(self, invoker: Invoker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._invoker, self._args, self._kwargs = invoker, args, kwargs
        self._coroutine: collections.abc.Coroutine[Any, Any, Any] | None = None

    def _started(self) -> collections.abc.Coroutine[Any, Any, Any]:
        if self._coroutine is None:
            self._coroutine = self._invoker.acall(self._args, self._kwargs)
        return self._coroutine

    def __await__(self) -> collections.abc.Generator[Any, Any, Any]:
        return self._started().__await__()

    def send(self, value: Any) -> Any:
        return self._started().send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        # One argument, the exception itself: the three-argument form is deprecated.
        error = val if isinstance(val, BaseException) else typ() if isinstance(typ, type) else typ
        return self._started().throw(error)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._invoker.aitems(self._args, self._kwargs)


def _arguments(item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A mapping holds keyword arguments; anything else is the only argument."""
    return ((), dict(item)) if isinstance(item, Mapping) else ((item,), {})


def _outcome(future: Future[Any], return_exceptions: bool) -> Any:
    try:
        return future.result()
    except CancelledError:
        raise errors.CallCancelled("the client was closed before the call ended") from None
    except BaseException as error:
        if not future.done():
            future.cancel()  # Ctrl-C interrupted this wait; the call still runs
            raise
        if return_exceptions and isinstance(error, Exception):
            return error
        raise


async def _settled(window: collections.deque[asyncio.Task[Any]], return_exceptions: bool) -> Any:
    """The outcome of the oldest task, which stays in the window (to be cancelled with it) until it is done."""
    await asyncio.wait([window[0]])
    task = window.popleft()
    error = task.exception()
    if error is None:
        return task.result()
    if return_exceptions and isinstance(error, Exception):
        return error
    raise error


async def _each(inputs: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(inputs, AsyncIterable):
        async for item in inputs:
            yield item
    else:
        for item in inputs:
            yield item


def _typed(items: Iterator[Any], annotation: Any) -> Iterator[Any]:
    for item in items:
        yield codec.as_type(item, annotation)


def _remote_shape(schema: Mapping[str, Any], name: str) -> _Shape:
    """From the platform's schema, whose properties have the order of the function's parameters."""
    parameters = schema.get("parameters", schema)
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    names = list(properties) if isinstance(properties, Mapping) else []

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(names):
            raise TypeError(f"{name} takes {len(names)} arguments ({', '.join(names)}), {len(args)} were given")
        bound = dict(zip(names, args, strict=False))
        for key in itertools.filterfalse(lambda key: key not in bound, kwargs):
            raise TypeError(f"{name} got two values for argument {key!r}")
        return {**bound, **kwargs}

    return _Shape(bind, bool(schema.get("streaming", False)), Any)


def _local_shape(wrapped: Any, batched: bool) -> _Shape:
    """From the caller's own code: its signature, generator or not, its return annotation."""
    is_class = isinstance(wrapped, type)
    target = wrapped.__call__ if is_class else wrapped  # the method of a class is unbound: `self` comes first
    signature = inspect.signature(target)
    if is_class:
        first, *_ = signature.parameters or [""]
        signature = signature.replace(parameters=[p for n, p in signature.parameters.items() if n != first])
    streaming = _is_generator(target)
    returns = _return_annotation(declaring_function(target))
    if streaming or batched:
        inner = typing.get_args(returns)
        returns = inner[0] if inner else Any
    name = name_of(wrapped)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        return _by_name(bound, name)

    return _Shape(bind, streaming, returns)


def _is_generator(target: Any) -> bool:
    """Whether the outermost of its layers that is async or a generator is a generator, as a replica decides."""
    for layer in layers(target):
        if inspect.isgeneratorfunction(layer) or inspect.isasyncgenfunction(layer):
            return True
        if inspect.iscoroutinefunction(layer):
            return False
    return False


def _by_name(bound: inspect.BoundArguments, name: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise TypeError(f"{name}: arguments of *{key} have no names, and a call carries names only")
        if kind is inspect.Parameter.VAR_KEYWORD:
            out.update(value)
        else:
            out[key] = value
    return out


def _return_annotation(target: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(target).get("return", Any)
    except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything; without it the value is untyped
        return Any
