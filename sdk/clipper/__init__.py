"""Clipper: write a function, run `clip deploy`, call it by HTTP or from Python.

    import clipper

    @clipper.function(max_batch_size=32)
    class Classify: ...

Importing this package is cheap: what talks HTTP, reads projects or pickles loads when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipper.contract.version import VERSION

# The module `clipper.function` is imported before the name is bound to the decorator, so that it stays bound: a later
# `from clipper.function import Function` finds the module in sys.modules and does not touch this package's attribute.
from clipper.function import Function, function

if TYPE_CHECKING:
    from clipper import errors
    from clipper.app import App, Prediction
    from clipper.calls import Call
    from clipper.client import Client
    from clipper.contract.spec import SpecError
    from clipper.errors import ClipperError
    from clipper.live_deploys import deploy
    from clipper.response import Response

__all__ = [
    "App",
    "Call",
    "Client",
    "ClipperError",
    "Function",
    "Prediction",
    "Response",
    "SpecError",
    "__version__",
    "deploy",
    "errors",
    "function",
]

__version__ = VERSION

_LAZY = {
    "App": "clipper.app",
    "Call": "clipper.calls",
    "Client": "clipper.client",
    "ClipperError": "clipper.errors",
    "Prediction": "clipper.app",
    "Response": "clipper.response",
    "SpecError": "clipper.contract.spec",
    "deploy": "clipper.live_deploys",
}


if not TYPE_CHECKING:  # to a type checker the names above are all there are, so that it sees a misspelt one

    def __getattr__(name: str) -> Any:
        import importlib

        if name == "errors":
            return importlib.import_module("clipper.errors")
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
