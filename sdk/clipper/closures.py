"""Functions pickled by value for `clipper.deploy`. cloudpickle writes them here; only a replica reads them."""

from __future__ import annotations

import io
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]  # it ships no types

from clipper.contract.constants import STAGED_PACKAGES
from clipper.contract.spec import SpecError
from clipper.function import Function

__all__ = ["dump_closure"]


def dump_closure(wrapped: Callable[..., Any]) -> bytes:
    """The pickle of a function or class with all that it refers to on this machine. Raises SpecError.

    Code of `__main__` and of local modules goes by value, as the replica has neither; code of installed packages and of
    the standard library goes by reference.
    """
    out = io.BytesIO()
    try:
        with _local_modules_by_value():
            _Pickler(out).dump(wrapped)
    except Exception as error:
        name = getattr(wrapped, "__name__", repr(wrapped))
        raise SpecError(
            f"{name} refers to something that cannot be sent ({type(error).__name__}: {error}); "
            "create connections, locks and open files inside the function, or in a class's __init__",
            where="clipper.deploy",
        ) from error
    return out.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Function) and not _is_installed(sys.modules.get(obj.__module__)):
            return obj.by_value()
        return super().reducer_override(obj)


@contextmanager
def _local_modules_by_value() -> Iterator[None]:
    before = cloudpickle.list_registry_pickle_by_value()
    added = [
        module
        for name, module in list(sys.modules.items())
        # Aliases and lazy stand-ins in sys.modules are not modules that can be registered.
        if isinstance(module, ModuleType) and module.__name__ == name and name not in before
        if name != "__main__" and not _is_installed(module)
    ]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


# Directories of the standard library and of installed packages, which the replica has too.
_HOMES: Final = tuple(
    Path(path).resolve()
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PACKAGE_DIRECTORIES: Final = frozenset({"site-packages", "dist-packages"})


def _is_installed(module: ModuleType | None) -> bool:
    """Whether the replica can import the module: it is not a file that only this machine has."""
    if module is None or module.__name__ == "__main__":
        return False
    if module.__name__.partition(".")[0] in STAGED_PACKAGES:
        return True
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return True  # a built-in module or a namespace package: there is no code to send
    path = Path(file).resolve()
    return not _PACKAGE_DIRECTORIES.isdisjoint(path.parts) or any(path.is_relative_to(home) for home in _HOMES)
