"""Which of the names in a pickle belong to a model, which need another package, and which no model needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from clipper.models.pickled_objects import Name

__all__ = ["foreign_modules", "suspicious_names"]

# What comes with scikit-learn, or is Python's own and harmless.
_USUAL: Final = frozenset({"sklearn", "numpy", "scipy", "joblib"})
_HARMLESS: Final = frozenset(
    {"copyreg", "copy_reg", "_codecs", "collections", "datetime", "decimal", "fractions", "functools", "uuid",
     "pathlib", "enum", "re", "string", "random", "operator", "itertools", "math", "types", "array", "zoneinfo", "abc",
     "typing", "dataclasses", "weakref", "threading", "warnings", "numbers", "_operator", "ipaddress", "time"}
)  # fmt: skip
# Names that call whatever they are given, or fetch attributes of anything, in whichever module.
_POWERFUL: Final = frozenset(
    {"attrgetter", "methodcaller", "FunctionType", "CodeType", "Thread", "Timer", "exec", "eval", "system", "popen",
     "runstring", "read_pickle", "load", "loads", "import_module", "__import__"}
)  # fmt: skip
_NOT_PYTHONS: Final = frozenset({"posix", "nt", "commands"})
_BUILTINS: Final = frozenset(
    {"object", "list", "dict", "set", "frozenset", "tuple", "int", "float", "complex", "bool", "str", "bytes",
     "bytearray", "slice", "range", "type", "Ellipsis", "NotImplemented", "reversed", "enumerate", "len", "max", "min",
     "sum", "abs", "round", "ValueError", "TypeError", "KeyError", "Exception", "print"}
)  # fmt: skip


def suspicious_names(names: Iterable[Name]) -> list[str]:
    """Functions of Python's own library that run commands, code or whatever they are given."""
    return sorted(str(name) for name in names if _is_suspicious(name))


def _is_suspicious(name: Name) -> bool:
    top, parts = name.module.partition(".")[0], name.name.split(".")
    if top in ("builtins", "__builtin__"):
        return parts[0] not in _BUILTINS
    if not _POWERFUL.isdisjoint(parts) or (len(parts) > 1 and parts[0] in sys.stdlib_module_names):
        return True  # the second: `numpy.f2py` and "os.system", a module that another one imports
    return top in _NOT_PYTHONS or (top in sys.stdlib_module_names and top not in _HARMLESS)


def foreign_modules(names: Iterable[Name]) -> set[str]:
    """Top-level modules that neither come with scikit-learn nor with Python."""
    tops = {name.module.partition(".")[0] for name in names}
    known = sys.stdlib_module_names | _USUAL | {"copy_reg", "__builtin__", "cloudpickle", "nt", ""}
    return (tops - known) | (tops & {"__main__"})
