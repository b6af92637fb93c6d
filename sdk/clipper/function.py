"""`@clipper.function`: marks a function or a class as one to deploy, and lets the same name call what was deployed.

Every replica imports this module beside user code, so it is light: the first remote call loads HTTP and all else.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from clipper.address import FunctionAddress
    from clipper.calls import Call, Invoker, RemoteCall
    from clipper.client import Client

__all__ = ["Function", "FunctionOptions", "function"]

P = ParamSpec("P")
R = TypeVar("R")


class FunctionOptions(TypedDict, total=False):
    """Keywords of `@clipper.function`; the same keys stand in `[functions.NAME]` of clip.toml, which wins."""

    max_batch_size: int
    batch_wait_timeout_s: float
    batch_policy: Literal["aimd", "latency_model", "static", "none"] | None
    batch_size_key: str | None
    on_batch_error: Literal["bisect", "fail"]
    latency_slo_s: float | None
    max_ongoing_requests: int | None
    max_queued_requests: int
    timeout_s: float
    startup_timeout_s: float
    graceful_shutdown_timeout_s: float | None
    health_check_period_s: float
    max_retries: int
    cache_ttl_s: float | None
    default_output: Any
    hedge_after: float | None
    memory_bytes: int | None
    max_invocations: int | None
    public: bool
    snapshot: bool
    autoscaling: Mapping[str, Any]
    target_queue_depth: float
    target_ongoing_requests: float | None
    min_replicas: int
    max_replicas: int
    buffer_replicas: int
    max_scale_up_rate: float
    max_scale_down_rate: float
    upscale_delay_s: float
    downscale_delay_s: float
    downscale_to_zero_delay_s: float
    keep_alive: str
    stable_window_s: float
    panic_window_s: float
    panic_threshold: float


class Function(Generic[P, R]):
    """A function that is, or will be, deployed.

    Calling it is calling the code itself: `shout("hi")`; of a class, it makes an instance. `remote`, `map` and `spawn`
    call what was deployed, `local` runs the code here as a replica would.
    """

    # update_wrapper copies these from the code.
    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R]

    def __init__(self, wrapped: Callable[P, R] | None, *, name: str, options: Mapping[str, Any] | None = None) -> None:
        self._wrapped = wrapped
        self.name = name
        self.options: dict[str, Any] = dict(options or {})
        self._address: FunctionAddress | None = None
        self._client: Client | None = None
        self._timeout_s: float | None = None
        self._invoker: Invoker | None = None
        self._instance: Any = None
        self.remote = _Remote(self)
        self.map = _Map(self)
        self.spawn = _Spawn(self)
        if wrapped is not None:
            # The docstring, name, module and signature of the code are shown by help(), editors and frameworks.
            functools.update_wrapper(self, wrapped, updated=())

    @classmethod
    def from_name(
        cls, address: str, *, timeout_s: float | None = None, client: Client | None = None
    ) -> Function[..., Any]:
        """A deployed function without its code: "digits/classify", or "digits/classify@3" for one version.

        Nothing is asked of the platform before the first call. Raises SpecError for a bad address.
        """
        from clipper.address import FunctionAddress

        parsed = FunctionAddress.parse(address)
        function: Function[..., Any] = Function(None, name=parsed.function)
        function._address, function._timeout_s, function._client = parsed, timeout_s, client
        return function

    def with_options(self, *, timeout_s: float | None = None, client: Client | None = None) -> Function[P, R]:
        """The same function, called with another deadline in seconds (its retries included) or by another client."""
        copy: Function[P, R] = Function(self._wrapped, name=self.name, options=self.options)
        copy._address = self._address
        copy._timeout_s = timeout_s if timeout_s is not None else self._timeout_s
        copy._client = client or self._client
        return copy

    def bind(self, address: FunctionAddress, client: Client | None = None) -> Function[P, R]:
        """The same function, calling what is deployed at `address`."""
        bound = self.with_options(client=client)
        bound._address = address
        return bound

    @property
    def wrapped(self) -> Callable[P, R]:
        """The code as it was written: a function or a class. Raises TypeError for a function known by name only."""
        if self._wrapped is None:
            raise TypeError(f"{self._address} is known by name only: its code is not here; use .remote(...)")
        return self._wrapped

    @property
    def address(self) -> FunctionAddress:
        """Where it is deployed: as bound, or by the nearest clip.toml above its file. Raises SpecError."""
        if self._address is not None:
            return self._address
        from clipper.source_address import address_of

        return address_of(self.wrapped, self.name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.wrapped(*args, **kwargs)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run the code here. Of a class, one instance is made at the first call and kept, as in a replica."""
        wrapped = self.wrapped
        if not isinstance(wrapped, type):
            return wrapped(*args, **kwargs)
        if self._instance is None:
            self._instance = wrapped()
        return self._instance(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<clipper.Function {self._address or self.name}>"

    def by_value(self) -> tuple[Any, ...]:
        """What `__reduce__` returns to rebuild it from its code instead of importing its module."""
        return _restore, (self._wrapped, self.name, self.options, self._address, self._timeout_s)

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self._address is not None or self._wrapped is None:
            return self.by_value()
        # Pickled by reference, as any module-level name: loading imports its module.
        return getattr(self._wrapped, "__qualname__", self.name)

    def _calls(self) -> Invoker:
        if self._invoker is None:
            from clipper.calls import Invoker

            batch = self.options.get("max_batch_size", 1)
            self._invoker = Invoker(
                self.address,
                wrapped=self._wrapped,
                batched=isinstance(batch, int) and batch > 1,
                timeout_s=self._timeout_s,
                client=self._client,
            )
        return self._invoker


def _restore(
    wrapped: Callable[..., Any] | None,
    name: str,
    options: Mapping[str, Any],
    address: FunctionAddress | None,
    timeout_s: float | None,
) -> Function[..., Any]:
    function: Function[..., Any] = Function(wrapped, name=name, options=options)
    function._address, function._timeout_s = address, timeout_s
    return function


class _Remote:
    """`f.remote(...)` and `await f.remote.aio(...)`: invoke what is deployed, with one invocation's arguments."""

    def __init__(self, owner: Function[..., Any]) -> None:
        self._owner = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value; of a generator, an iterator of its items as they come. Raises ClipperError."""
        return self._owner._calls().call(args, kwargs)

    def aio(self, *args: Any, **kwargs: Any) -> RemoteCall:
        """Await it for the value; of a generator, iterate with `async for`. Raises ClipperError."""
        from clipper.calls import RemoteCall

        return RemoteCall(self._owner._calls(), args, kwargs)


class _Map:
    """`f.map(inputs)` and `async for value in f.map.aio(inputs)`."""

    def __init__(self, owner: Function[..., Any]) -> None:
        self._owner = owner

    def __call__(
        self, inputs: Iterable[Any], *, concurrency: int | None = None, return_exceptions: bool = False
    ) -> Iterator[Any]:
        """One value per input, in the inputs' order; at most `concurrency` (32) invocations are open at once.

        An input that is a mapping holds keyword arguments, any other is the only argument. The first error ends the
        iteration and cancels what is open, unless `return_exceptions` makes errors values.
        """
        return self._owner._calls().map(
            inputs, concurrency=_concurrency(concurrency), return_exceptions=return_exceptions
        )

    def aio(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> AsyncIterator[Any]:
        """`map`, as an asynchronous iterator; the inputs may come asynchronously too."""
        return self._owner._calls().amap(
            inputs, concurrency=_concurrency(concurrency), return_exceptions=return_exceptions
        )


class _Spawn:
    """`f.spawn(...)` and `await f.spawn.aio(...)`: begin an invocation and go on."""

    def __init__(self, owner: Function[..., Any]) -> None:
        self._owner = owner

    def __call__(self, *args: Any, **kwargs: Any) -> Call[Any]:
        """A `Call`: `get(timeout)`, `done()`, `cancel()`. This process holds it; it ends with the process."""
        return self._owner._calls().spawn(args, kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Call[Any]:
        """The same from asynchronous code; await its value with `call.get.aio()`."""
        return self._owner._calls().spawn(args, kwargs)


def _concurrency(given: int | None) -> int:
    from clipper.calls import DEFAULT_CONCURRENCY

    if given is None:
        return DEFAULT_CONCURRENCY
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"concurrency = {given!r} is not allowed: it must be a whole number of at least 1")
    return given


@overload
def function(wrapped: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(
    *, name: str | None = None, **options: Unpack[FunctionOptions]
) -> Callable[[Callable[P, R]], Function[P, R]]: ...


def function(wrapped: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Mark a function or a class as one to deploy. With or without parentheses.

    `name` is the function's name in its project, by default `__name__`. The other keywords are its options, refused at
    once where they are unknown or of a wrong type (SpecError).
    """
    from clipper.contract.spec import FunctionSpec, SpecError, check_name

    if wrapped is not None and not callable(wrapped):
        raise SpecError(f"@clipper.function takes keywords only, not {wrapped!r}", where="@clipper.function")
    FunctionSpec.check_options(options, where="@clipper.function")

    def decorate(target: Callable[..., Any]) -> Function[..., Any]:
        if isinstance(target, Function):
            raise SpecError(f"{target.name} is decorated twice", where="@clipper.function")
        if not callable(target):
            raise SpecError(f"{target!r} is neither a function nor a class", where="@clipper.function")
        own = name if name is not None else getattr(target, "__name__", "")
        check_name(own, "function", where="@clipper.function")
        return Function(target, name=own, options=options)

    return decorate(wrapped) if wrapped is not None else decorate
