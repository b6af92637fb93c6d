"""`python -P -u -m clipper_runtime.zygote --control fd:N`: a process that forks into replicas on demand.

The first request says what it becomes: `preload` imports modules and makes it the zygote of an environment, shared by
all bundles; `prepare` loads one function, runs its setup and makes it the template of a snapshot. Then each `fork`
makes a child that lives as any replica does. The control socket is a SOCK_SEQPACKET pair; a message is one JSON
object, with descriptors beside it (SCM_RIGHTS)::

    platform  {"do": "preload", "modules": [...]} | {"do": "prepare", "bundle": PATH, "spec": {...}}
    zygote    {"did": "ready", "modules": [top-level names], "skipped": {name: why}, "phases": {...}}
              {"did": "refused", "why": "...", "module": NAME or "", "lasting": BOOL}, and it exits
    platform  {"do": "fork", "id": 1, "ahead": BOOL}     ahead: nobody waits for it yet
    zygote    {"did": "fork", "id": 1, "pid": P} + pidfd, line, channel, stdout, stderr
              {"did": "fork", "id": 1, "error": "..."}
              {"did": "exit", "pid": P, "status": S}     as from subprocess: -N for signal N
    platform  {"do": "retire"}: no more forks; it exits when its last child has

and on a child's line, once, when it becomes a replica; a line that ends before is the end of the child::

    platform  {"replica": ID, "cwd": PATH, "set": {...}, "unset": [...]}     the last two: environment variables

It is single-threaded, because a fork copies only the thread that calls it: locks that others hold stay locked for
good. Children are in sessions of their own and outlive it; the platform's end reaches them by their channel.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipper.contract.spec import FunctionSpec, SpecError
from clipper_runtime import aio as _aio  # noqa: F401 - imported once here, for the children that run coroutines
from clipper_runtime.__main__ import prepare_process
from clipper_runtime.fork_safety import open_descriptors, unforkable
from clipper_runtime.forked_child import Mark, live, rehearse
from clipper_runtime.forking import Control, Forks
from clipper_runtime.loader import LoadError, Phases, load, set_up
from clipper_runtime.server import Prepared

__all__ = ["Refusal", "main", "preload", "prepare"]


class Refusal(NamedTuple):
    """Why a process does not become what it was asked to. `module`: the import that is to blame. `lasting`: another
    attempt would end the same."""

    why: str
    module: str = ""
    lasting: bool = False


def preload(modules: Sequence[str]) -> tuple[dict[str, str], Refusal | None]:
    """Import them; (those that cannot be, with why; the one after which this process cannot be forked)."""
    skipped: dict[str, str] = {}
    for name in modules:
        if name in sys.modules:
            continue
        before = open_descriptors()
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything; it is only not preloaded then
            skipped[name] = f"{type(error).__name__}: {error}"[:200]
        if why := unforkable(before):
            return skipped, Refusal(why, name)
    return skipped, None


def prepare(bundle: str, options: Mapping[str, Any], phases: Phases) -> Prepared | Refusal:
    """Load a function and run its setup; the template, or why there is none."""
    before = open_descriptors()
    try:
        spec = FunctionSpec.from_dict(options, where="prepare.spec")
        loaded = load(bundle, spec, phases)
        if loaded.kind == "async":
            why = "it is async: its setup belongs to an event loop, which a forked process cannot share"
            return Refusal(why, lasting=True)
        with phases.measure("setup"):
            program = set_up(loaded)
    except (SpecError, LoadError) as error:
        return Refusal(f"it does not start: {error}")
    why = unforkable(before)
    return Refusal(why) if why else Prepared(bundle, dict(options), spec, loaded, program)


def _become(control: Control, message: dict[str, Any]) -> tuple[bool, Prepared | None]:
    """Carry the first request out and answer it; whether there is something to fork."""
    phases, made, skipped = Phases(), None, dict[str, str]()
    refusal: Refusal | None = None
    if message.get("do") == "prepare":
        made = prepare(message["bundle"], message["spec"], phases)
        refusal = made if isinstance(made, Refusal) else None
    else:
        skipped, refusal = preload(message.get("modules", ()))
    if refusal is not None:
        control.send({"did": "refused", **refusal._asdict()})
        return False, None
    rehearse()
    gc.collect()
    # The collector writes into each object that it looks at: frozen ones stay shared with the children.
    gc.freeze()
    names = sorted({name.partition(".")[0] for name in list(sys.modules)} - {"__main__"})
    control.send({"did": "ready", "modules": names, "skipped": skipped, "phases": phases.seconds})
    return True, made if isinstance(made, Prepared) else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="clipper_runtime.zygote", description="Fork into replicas on demand.")
    parser.add_argument("--control", required=True, help="fd:N, a SOCK_SEQPACKET socket")
    options = parser.parse_args()
    prepare_process()
    gc.disable()  # a collection frees memory in pages that children share later
    control = Control(socket.socket(fileno=int(options.control.removeprefix("fd:"))))
    os.set_inheritable(control.sock.fileno(), False)
    received = control.receive()
    if received is None:
        return
    serving, prepared = _become(control, received[0])
    mark = Mark()
    newborn = Forks(control).serve() if serving else None
    if newborn is not None:
        live(newborn, mark, prepared)


if __name__ == "__main__":
    main()
