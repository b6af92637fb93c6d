"""Clients that close their sending side: whether they still wait for the answer, or are gone.

Both look alike, an end of the received bytes. `printf … | nc -N` half-closes and reads on; a client that gave up has
closed its socket. A closed socket answers whatever it receives with a reset, which the kernel shows in the state of the
connection. So the first bytes of the answer, which are the same in every answer, are sent ahead.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

__all__ = ["SentAhead", "can_tell", "peer_is_gone", "send_ahead"]

FIRST_BYTES: Final = b"HTTP/1.1 "  # of each status line
# Of the size of the next chunk: `05` is 5, and `00` is the last chunk (RFC 9112 §7.1).
LEADING_ZERO: Final = b"0"

_TCP_CLOSE: Final = 7  # in the kernel's enumeration of states; the first byte of TCP_INFO


class SentAhead:
    """The transport of a connection on which `FIRST_BYTES` are sent: it leaves them out of what is written next."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left_out = len(FIRST_BYTES)

    def write(self, data: bytes) -> None:
        left_out, self._left_out = self._left_out, 0
        self._transport.write(data[left_out:])

    def writelines(self, parts: list[bytes]) -> None:
        first, *rest = parts
        self.write(first)
        for part in rest:
            self._transport.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def send_ahead(transport: asyncio.Transport, *, started: bool, chunked: bool) -> asyncio.Transport:
    """Send what the client's kernel has to react to. Returns the transport for the rest of the answer.

    `started`: the head of the answer is sent. An answer of fixed length has nothing to send ahead then.
    """
    if not started:
        transport.write(FIRST_BYTES)
        return SentAhead(transport)  # type: ignore[return-value]  # it forwards all else
    if chunked:
        transport.write(LEADING_ZERO)
    return transport


def can_tell(transport: asyncio.Transport) -> bool:
    """Whether `peer_is_gone` works here: TCP, on Linux."""
    return _state(transport) is not None


def peer_is_gone(transport: asyncio.Transport) -> bool:
    return _state(transport) in (None, _TCP_CLOSE)


def _state(transport: asyncio.Transport) -> int | None:
    connection, option = transport.get_extra_info("socket"), getattr(socket, "TCP_INFO", None)
    if connection is None or option is None:
        return None
    try:
        state: int = connection.getsockopt(socket.IPPROTO_TCP, option, 1)[0]
    except (OSError, IndexError):
        return None
    return state
