"""Bodies of the control API's requests and responses; `/openapi.json` is generated from them."""

from __future__ import annotations

import msgspec

__all__ = ["RequestBody", "ResponseBody"]


class RequestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An unknown key is refused by name."""


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """A response's body, or an object inside of one."""
