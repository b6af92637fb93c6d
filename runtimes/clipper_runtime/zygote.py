"""`python -P -S -u -m clipper_runtime --control fd:N`: a process that forks into replicas on demand.

The first request says what it becomes: `Preload` imports modules of the environment and makes it the zygote of a
version; `Prepare` loads one function, runs its setup and makes it the template of a snapshot. Each `Fork` then
makes a child that lives as any replica does. `clipper.contract.zygote` defines the messages.

It is single-threaded, because a fork copies only the thread that calls it: locks that others hold stay locked for
good. Children are in sessions of their own and outlive it; when the platform ends, their channels end.

It is confined before, as a replica of the same version is, and its children inherit that. They share a directory in
which each has its own for temporary files.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clipper.contract.spec import FunctionSpec, SpecError
from clipper.contract.zygote import Preload, Prepare, Ready, Refused, Request, decode_request
from clipper_runtime import aio as _aio  # noqa: F401 - imported once here, for the children that run coroutines
from clipper_runtime.confinement import Rules
from clipper_runtime.fork_safety import fork_obstacle, open_descriptors
from clipper_runtime.forked_child import ReplicaEntry, run_forked_child
from clipper_runtime.forking import Control, ForkServer
from clipper_runtime.loader import LoadError, Phases, load, set_up
from clipper_runtime.server import Prepared

__all__ = ["main", "preload", "prepare"]


def preload(modules: Sequence[str]) -> tuple[dict[str, str], Refused | None]:
    """Import the modules. Returns those that cannot be imported, with the reason, and the refusal if this process
    cannot be forked any more after one of them."""
    skipped: dict[str, str] = {}
    for name in modules:
        if name in sys.modules:
            continue
        before = open_descriptors()
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything; then it is not preloaded
            skipped[name] = f"{type(error).__name__}: {error}"[:200]
        if why := fork_obstacle(before):
            return skipped, Refused(why, name)
    return skipped, None


def prepare(bundle: str, options: Mapping[str, Any]) -> Prepared | Refused:
    """Load a function and run its setup."""
    before = open_descriptors()
    try:
        spec = FunctionSpec.from_dict(options, where="prepare.spec")
        phases = Phases()
        loaded = load(bundle, spec, phases)
        if loaded.kind == "async":
            why = "it is async: its setup belongs to an event loop, which a forked process cannot share"
            return Refused(why, lasting=True)
        with phases.measure("setup"):
            program = set_up(loaded)
    except (SpecError, LoadError) as error:
        return Refused(f"it does not start: {error}")
    why = fork_obstacle(before)
    return Refused(why) if why else Prepared(bundle, dict(options), spec, loaded, program)


def _become(request: Request) -> tuple[Prepared | None, Ready | Refused]:
    """Carry out the first request. Returns the function that was set up, if any, and the answer."""
    skipped, prepared = dict[str, str](), None
    match request:
        case Prepare(bundle, spec):
            outcome = prepare(bundle, spec)
            if isinstance(outcome, Refused):
                return None, outcome
            prepared = outcome
        case Preload(modules):
            skipped, refusal = preload(modules)
            if refusal is not None:
                return None, refusal
        case _:
            return None, Refused(f"{type(request).__name__} is no first request", lasting=True)
    gc.collect()
    # The collector writes into each object that it looks at: frozen objects stay shared with the children.
    gc.freeze()
    names = sorted({name.partition(".")[0] for name in list(sys.modules)} - {"__main__"})
    return prepared, Ready(names, skipped)


def main(rules: Rules | None) -> None:
    """`rules`: those that this process is confined by."""
    parser = argparse.ArgumentParser(prog="clipper_runtime", description="Fork into replicas on demand.")
    parser.add_argument("--control", required=True, help="fd:N, a SOCK_SEQPACKET socket")
    options = parser.parse_args()
    gc.disable()  # a collection frees memory in pages that children share later
    control = Control(socket.socket(fileno=int(options.control.removeprefix("fd:"))))
    os.set_inheritable(control.sock.fileno(), False)
    first = control.receive()
    if first is None:
        return
    prepared, answer = _become(decode_request(first))
    control.send(answer)
    if isinstance(answer, Refused):
        return
    entry = ReplicaEntry()
    child = ForkServer(control).serve()
    if child is not None:
        run_forked_child(child, entry, prepared, confined=rules is not None and rules.mode != "none")
