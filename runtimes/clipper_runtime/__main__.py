"""`python -P -u -m clipper_runtime --channel fd:N|unix:PATH|tcp:HOST:PORT`: one replica.

The token that the platform expects, if any, stands in the environment variable CLIP_CHANNEL_TOKEN.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Never

from clipper.contract.wire import ProtocolError
from clipper_runtime.channel import Channel, ChannelClosed, connect
from clipper_runtime.confinement import confine_by_environment
from clipper_runtime.server import EXIT_PROTOCOL, Prepared, Replica, abandon, await_start, greet, leave

_USAGE = 2
_PR_SET_PDEATHSIG = 1


def prepare_process() -> None:
    """Settings for the whole life of a replica, before any user code runs."""
    # Ctrl-C in a terminal reaches the whole foreground group; the platform handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A crash in C code leaves the Python stacks on descriptor 2.
    faulthandler.enable(file=2)
    if sys.platform == "linux":
        try:
            # The end of the channel is noticed too, but not while C code holds the interpreter lock.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        except (OSError, AttributeError):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="clipper_runtime", description="Run one replica of a function.")
    parser.add_argument("--channel", required=True, help="fd:N, unix:PATH or tcp:HOST:PORT")
    options = parser.parse_args()
    prepare_process()
    confine_by_environment()
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


if __name__ == "__main__":
    main()
