"""The body of a request over ASGI, within its limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from clipper_platform.errors import ClientClosed, PayloadTooLarge, RequestTimeout

__all__ = ["read_request_body"]


async def read_request_body(scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float) -> bytes:
    """Raises PayloadTooLarge, RequestTimeout, ClientClosed."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _received(receive, limit_bytes)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s") from None


async def _received(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientClosed("the client disconnected while it sent the body")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over the limit of {limit} bytes (max_body_bytes)")
