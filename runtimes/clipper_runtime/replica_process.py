"""The life of a replica's process, once it is connected to the platform."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from typing import Never

from clipper.contract.wire import ProtocolError
from clipper_runtime.channel import Channel, ChannelClosed, connect
from clipper_runtime.server import EXIT_PROTOCOL, Prepared, Replica, abandon, await_start, greet, leave

__all__ = ["main", "run_replica"]

_USAGE = 2


def main() -> None:
    """Connect, and be a replica."""
    parser = argparse.ArgumentParser(prog="clipper_runtime", description="Run one replica of a function.")
    parser.add_argument("--channel", required=True, help="fd:N, unix:PATH or tcp:HOST:PORT")
    options = parser.parse_args()
    token = os.environ.pop("CLIP_CHANNEL_TOKEN", "")
    try:
        sock = connect(options.channel)
    except (OSError, ValueError) as error:
        print(f"cannot reach the platform: {error}", file=sys.stderr)
        sys.exit(_USAGE)
    run_replica(sock, token=token)


def run_replica(
    sock: socket.socket,
    prepared: Prepared | None = None,
    *,
    token: str = "",
    await_assignment: Callable[[], None] = lambda: None,
) -> Never:
    """Run a replica on a connected channel. `prepared`: the function that this process has set up already.
    `await_assignment` is called after Hello: a forked child waits there until it is assigned to a replica."""
    channel = Channel(sock)
    try:
        greet(channel, token)
        await_assignment()
        start, later = await_start(channel)
        replica = Replica(channel, start, prepared)
        status = replica.run(later)
    except ChannelClosed:
        abandon()
    except ProtocolError as error:
        print(f"the platform broke the protocol: {error}", file=sys.__stderr__)
        sys.exit(EXIT_PROTOCOL)
    leave(status, replica.output)
