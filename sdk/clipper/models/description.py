"""What was found in a model file, and the error for one that cannot be served."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipper.contract.rules import SpecError

__all__ = ["Input", "Model", "ModelError", "Output"]


class ModelError(SpecError):
    """A file that is no model, not a whole one, or one that cannot be served. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a model, for one invocation.

    `shape` leaves out the axis of the batch; None is a side of any length, and a shape of None says nothing at all.
    `dtype` is numpy's word, "text" for strings and "table" for a row with `columns`: (name, type of Python).
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None = None
    columns: tuple[tuple[str, str], ...] = ()

    def words(self) -> str:
        """As in "float32 [13]"."""
        if self.columns:
            return f"a row of {len(self.columns)} columns"
        if not self.shape:
            return self.dtype
        return f"{self.dtype} [{', '.join('any' if side is None else str(side) for side in self.shape)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of a model, for one invocation. `type` is a type of Python in words, as in "int"."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that was recognised, and what is proposed to serve it.

    `kind` is the model's own name for itself ("RandomForestClassifier"), `format` how it was saved, and `version` the
    framework's, where the file says it. `files` are copied into the project under their relative paths; `app` is the
    source of its app.py. `smoke` are arguments of a call that the model takes, None where the file does not tell.
    """

    framework: str
    kind: str
    format: str
    function: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    files: tuple[tuple[str, Path], ...]
    app: str
    requirements: tuple[str, ...]
    version: str | None = None
    python: str | None = None
    smoke: dict[str, Any] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
