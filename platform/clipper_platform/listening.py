"""The sockets that the platform listens on: one for each address of its host."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from clipper_platform.errors import Conflict, InvalidSpec
from clipper_platform.settings import BACKLOG, Settings

__all__ = ["listening_sockets"]

# A host name may have addresses of a family that this machine does not run, as `localhost` without IPv6.
_ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_ATTEMPTS: Final = 10  # to find a free port that is free for all addresses


@contextmanager
def listening_sockets(settings: Settings) -> Iterator[Sequence[socket.socket]]:
    """`localhost` is both 127.0.0.1 and ::1, and clients take either. Raises InvalidSpec, Conflict."""
    try:
        names = ("127.0.0.1", "::1") if settings.host == "localhost" else (settings.host,)  # whatever /etc/hosts says
        found = [info for name in names for info in _resolved(name, settings.port)]
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidSpec(f"host = {settings.host!r} cannot be resolved: {why}", key="host") from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    addresses.sort(key=lambda address: address[0] != socket.AF_INET)  # the first one is in the platform's URL
    with ExitStack() as stack:
        yield _listen(stack, settings, addresses)


def _resolved(name: str, port: int) -> list[tuple[Any, ...]]:
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _listen(stack: ExitStack, settings: Settings, addresses: Sequence[tuple[int, Any]]) -> list[socket.socket]:
    for attempt in range(_ATTEMPTS):
        listeners: list[socket.socket] = []
        port = settings.port
        try:
            for family, address in addresses:
                listener = _bound(family, (address[0], port, *address[2:]), alone=len(addresses) == 1)
                if listener is not None:
                    listeners.append(stack.enter_context(listener))
                    port = listener.getsockname()[1]
        except OSError as error:
            stack.close()
            if settings.port == 0 and listeners and attempt < _ATTEMPTS - 1:
                continue  # the port that was free for one address is taken for another
            raise Conflict(
                f"cannot listen on {settings.host} port {settings.port}: {error.strerror}", port=settings.port
            ) from error
        if listeners:
            return listeners
    raise InvalidSpec(f"host = {settings.host!r} is no address of this machine", key="host")


def _bound(family: int, address: Any, *, alone: bool) -> socket.socket | None:
    """A socket that listens; None for an address that this machine does not have, beside others. Raises OSError."""
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if not alone and error.errno in _ABSENT:
            return None
        raise
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if not alone and error.errno in _ABSENT:
            return None
        raise
    return listener
