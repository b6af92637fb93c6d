"""The sockets that the platform listens on."""

from __future__ import annotations

import socket

import pytest

from clipper_platform.errors import Conflict, InvalidSpec
from clipper_platform.listening import listening_sockets
from clipper_platform.settings import Settings


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_localhost_is_both_of_its_addresses_on_one_port() -> None:
    with listening_sockets(Settings(host="localhost", port=0)) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1", "::1"]
        (port,) = {listener.getsockname()[1] for listener in listeners}
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_address_is_one_socket(host: str) -> None:
    with listening_sockets(Settings(host=host, port=0)) as listeners:
        assert len(listeners) == 1


def test_a_port_that_is_taken_is_a_conflict_and_leaves_no_socket_open() -> None:
    with listening_sockets(Settings(host="localhost", port=0)) as listeners:
        port = listeners[0].getsockname()[1]
        with pytest.raises(Conflict, match=str(port)), listening_sockets(Settings(host="localhost", port=port)):
            pass
    with listening_sockets(Settings(host="localhost", port=port)):
        pass


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 70, "192.0.2.1"])
def test_a_host_that_is_not_here_is_refused_with_its_name(host: str) -> None:
    with pytest.raises((InvalidSpec, Conflict), match=host[:8]), listening_sockets(Settings(host=host, port=0)):
        pass
