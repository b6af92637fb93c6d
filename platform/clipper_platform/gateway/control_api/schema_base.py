"""What all shapes of the control API have in common."""

from __future__ import annotations

import msgspec

__all__ = ["Answer", "Asked"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is asked: an unknown key is refused by name."""
