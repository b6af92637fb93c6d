"""A function's address: `project/function`, or `project/function@3` for one version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from clipper.contract.rules import SpecError, check_name

__all__ = ["FunctionAddress"]


@dataclass(frozen=True, slots=True)
class FunctionAddress:
    """Without a version, the platform's route decides which one answers."""

    project: str
    function: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "digits/classify" or "digits/classify@3". Raises SpecError."""
        if not isinstance(text, str) or text.count("/") != 1:
            raise SpecError(f"{text!r} is not a function's address: write it as in 'digits/classify' (or '…@3')")
        project, _, rest = text.partition("/")
        function, at, version = rest.partition("@")
        number = None
        if at:
            if not (version.isascii() and version.isdigit()) or len(version) > 9 or int(version) < 1:
                raise SpecError(f"{version!r} is not a version: it is a whole number from 1 on", key="version")
            number = int(version)
        return cls(check_name(project, "project"), check_name(function, "function"), number)

    @property
    def url_path(self) -> str:
        """The path of its route, from the root."""
        suffix = f"@{self.version}" if self.version is not None else ""
        return f"/fn/{quote(self.project, safe='')}/{quote(self.function, safe='')}{suffix}"

    def __str__(self) -> str:
        return f"{self.project}/{self.function}" + (f"@{self.version}" if self.version is not None else "")
