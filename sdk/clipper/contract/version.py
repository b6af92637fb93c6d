"""The version of this distribution: the SDK, the platform and the runtime are released together."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
