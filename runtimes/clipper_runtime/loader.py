"""Loads a function from a bundle's directory: imports the entrypoint, reads its signature, runs its setup."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import time
import types
import typing
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipper.contract.constants import CLOSURE_FILE, CLOSURE_MODULE
from clipper.contract.spec import FunctionSpec, nearest
from clipper.contract.wrappers import declaring_function
from clipper_runtime.callables import Mode, by_position, mode_of, with_results_awaited
from clipper_runtime.codec import Codec
from clipper_runtime.error_text import error_text
from clipper_runtime.hint_checks import SchemaError
from clipper_runtime.schema import Signature, read_signature

__all__ = ["LoadError", "Loaded", "Phases", "Program", "load", "set_up"]


class LoadError(Exception):
    """A function cannot be served. `phase` as in `wire.Failed`; `cause` is the user's exception, if any."""

    def __init__(self, phase: str, message: str, *, error_type: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.phase = phase
        self.message = message
        self.error_type = error_type
        self.cause = cause


class Phases:
    """Seconds that each phase of a start took: import, load, setup."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> typing.Iterator[None]:
        """Time the body. Every exception that leaves it becomes a LoadError of this phase."""
        began = time.perf_counter()
        try:
            yield
        except LoadError:
            raise
        except SchemaError as error:
            # Raised by the runtime, so its traceback does not help; its cause is the user's exception.
            raise LoadError(phase, str(error), error_type="SchemaError", cause=error.__cause__) from error
        except BaseException as error:  # user code may even raise SystemExit
            raise LoadError(phase, error_text(error), error_type=type(error).__qualname__, cause=error) from error
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Loaded:
    """An imported entrypoint whose setup has not run: `target` is a function, a class or an instance."""

    target: Any
    signature: Signature
    codec: Codec
    schema: dict[str, Any]
    mode: Mode
    batched: bool

    @property
    def is_class(self) -> bool:
        return isinstance(self.target, type)

    @property
    def kind(self) -> Literal["sync", "async"]:
        return self.mode.kind

    @property
    def streaming(self) -> bool:
        return self.mode.streaming


@dataclass(frozen=True, slots=True)
class Program:
    """A function ready to run. `call` takes the arguments in the order of the parameters."""

    call: Callable[..., Any]
    close: Callable[[], Any] | None
    codec: Codec
    kind: Literal["sync", "async"]
    streaming: bool
    batched: bool


def load(bundle: str, spec: FunctionSpec, phases: Phases) -> Loaded:
    """Import and read the entrypoint. Raises LoadError with phase import, load or schema."""
    module_name, _, name = spec.entrypoint.partition(":")
    with phases.measure("import"):
        target = _find(Path(bundle).absolute(), module_name, name)
    with phases.measure("load"):
        target = _unwrap(target)
        if not callable(target):
            raise TypeError(f"{spec.entrypoint} is a {type(target).__name__}: it must be a function or a class")
        call = _calls(target, spec.entrypoint)
        mode = mode_of(call)
    with phases.measure("schema"):
        if spec.batched and mode.streaming:
            raise SchemaError(
                "a generator cannot be batched: set max_batch_size to 1, or return a list instead of yielding"
            )
        signature = read_signature(call, batched=spec.batched, streaming=mode.streaming, doc=_summary(target, call))
        codec = Codec(signature, batched=spec.batched)
        schema = codec.schema()
    phases.seconds["load"] += phases.seconds.pop("schema")
    return Loaded(target, signature, codec, schema, mode, spec.batched)


def set_up(loaded: Loaded) -> Program:
    """Create the instance, if it is a class. Raises the exceptions of user code."""
    instance = loaded.target() if loaded.is_class else loaded.target
    close = getattr(instance, "close", None) if loaded.is_class else None
    return Program(
        call=_call_of(instance, loaded),
        close=close if callable(close) else None,
        codec=loaded.codec,
        kind=loaded.kind,
        streaming=loaded.streaming,
        batched=loaded.batched,
    )


def _call_of(instance: Callable[..., Any], loaded: Loaded) -> Callable[..., Any]:
    """`instance` by position, so that every call is `f(*arguments)`, and as its mode says."""
    parameters = loaded.signature.parameters
    names, keyword_only = [p.name for p in parameters], [p.name for p in parameters if p.keyword_only]
    return with_results_awaited(by_position(instance, names, keyword_only), loaded.mode)


@contextmanager
def bundle_off_path(bundle: str) -> typing.Iterator[None]:
    """The runtime imports its own modules here, so that they find the standard library and not files of the bundle."""
    saved = list(sys.path)
    sys.path[:] = [entry for entry in saved if entry != bundle]
    try:
        yield
    finally:
        sys.path[:] = saved


def _find(bundle: Path, module_name: str, name: str) -> Any:
    if not bundle.is_dir():
        raise FileNotFoundError(f"the bundle {bundle} is not a directory")
    os.chdir(bundle)
    directory = str(bundle)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    importlib.invalidate_caches()
    if module_name == CLOSURE_MODULE:
        return _load_closure(bundle / CLOSURE_FILE)
    _check_shadowing(bundle, module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ModuleNotFoundError(_no_module(bundle, module_name), name=error.name) from None
        raise
    try:
        return getattr(module, name)
    except AttributeError:
        raise _no_attribute(module, module_name, name) from None


def _load_closure(path: Path) -> Any:
    """A function that was deployed from a notebook. Only this place unpickles, and only the user's own code."""
    with bundle_off_path(str(path.parent)):
        cloudpickle = importlib.import_module("cloudpickle")
    with path.open("rb") as file:
        return cloudpickle.load(file)


def _check_shadowing(bundle: Path, module_name: str) -> None:
    """Refuse an entry module with the name of a module that Python itself or the runtime has loaded."""
    top = module_name.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is None or not ((bundle / f"{top}.py").exists() or (bundle / top / "__init__.py").exists()):
        return
    origin = getattr(loaded, "__file__", None)
    if origin is None or not Path(origin).is_relative_to(bundle):
        raise ImportError(f"the module {top!r} of the bundle has the name of one that Python loads itself: rename it")


def _no_module(bundle: Path, module_name: str) -> str:
    names = {p.stem for p in bundle.glob("*.py")} | {p.parent.name for p in bundle.glob("*/__init__.py")}
    guess = nearest(module_name, names)
    hint = f"did you mean {guess!r}?" if guess else f"its modules are: {', '.join(sorted(names)) or 'none'}"
    return f"the bundle has no module {module_name!r}; {hint}"


def _no_attribute(module: Any, module_name: str, name: str) -> LoadError:
    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("__")]
    guess = nearest(name, names)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return LoadError("load", f"module {module_name!r} has no function or class {name!r}{hint}", error_type="LoadError")


def _unwrap(target: Any) -> Any:
    """The raw function or class of a decorated one. Decorated code has imported the SDK, so no import is needed."""
    sdk = sys.modules.get("clipper.function")
    return target.wrapped if sdk is not None and isinstance(target, sdk.Function) else target


def _calls(target: Any, entrypoint: str) -> Callable[..., Any]:
    """The callable whose signature describes an invocation; for a class its `__call__` without `self`."""
    if not isinstance(target, type):
        found: Callable[..., Any] = target
        return found
    own = next((vars(c)["__call__"] for c in target.__mro__ if "__call__" in vars(c)), None)
    if own is None:
        raise TypeError(f"the class {entrypoint} has no __call__: define it, it runs once per invocation or batch")
    # Bound to the class in place of an instance, so that the signature has no `self`.
    return types.MethodType(own, target) if inspect.isfunction(own) else own.__get__(None, target)


def _summary(target: Any, call: Any) -> str:
    """The first paragraph of the docstring."""
    written = target.__doc__ if isinstance(target, type) else None
    text = inspect.cleandoc(written or getattr(declaring_function(call), "__doc__", None) or "")
    return text.split("\n\n")[0][:1000] if isinstance(text, str) else ""
