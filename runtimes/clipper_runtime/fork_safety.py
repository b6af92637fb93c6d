"""Fork safety: whether this process holds what a fork does not copy, or what two processes must not share."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["GPU_DEVICES", "fork_obstacle", "gpu_in_use", "open_descriptors"]

GPU_DEVICES: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/dxg")
"""Prefixes of the device files of NVIDIA, AMD and WSL. A driver opens and maps them when it makes a context."""

# Modules with a function that says whether they have made a context.
_GPU_MODULES: Final = {"torch.cuda": "is_initialized", "torch.xpu": "is_initialized"}
_SETTLE_S: Final = 0.1


def open_descriptors() -> dict[int, str]:
    """Open descriptors and what they refer to, from `/proc/self/fd`."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def fork_obstacle(before: Mapping[int, str], devices: tuple[str, ...] = GPU_DEVICES) -> str:
    """Why this process cannot be forked; "" when it can. `before`: the descriptors at an earlier moment, which count as
    harmless."""
    fresh = {number: target for number, target in open_descriptors().items() if before.get(number) != target}
    mapped = _mapped_files()
    if sign := gpu_in_use([*fresh.values(), *sorted(mapped)], devices):
        return f"it holds a GPU context ({sign}), which a forked process cannot use"
    if (count := _settle()) > 1:
        threading = sys.modules.get("threading")
        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()] if threading else []
        called = f" ({', '.join(map(repr, names[:5]))})" if names else ""
        return f"it started {count - 1} threads{called}, which a forked process would lack"
    if children := _child_processes():
        return f"it started {len(children)} processes, which belong to one replica only"
    for target in fresh.values():
        if not target.startswith("/"):
            return f"it left {target} open, which replicas must not share"
        if not target.startswith("/dev/") and target not in mapped:
            return f"it left the file {target} open, whose position replicas would share"
    return ""


def gpu_in_use(files: Iterable[str], devices: tuple[str, ...] = GPU_DEVICES) -> str:
    """The sign of a GPU context among open and mapped `files` or in a library's own state; "" without one.

    A loaded library is no sign: after `import torch`, which maps libcuda, a process can be forked until torch makes a
    context.
    """
    for target in files:
        if target.startswith(devices):
            return f"{target} is in use"
    for name, function in _GPU_MODULES.items():
        initialized = getattr(sys.modules.get(name), function, None)
        if callable(initialized) and initialized():
            return f"{name}.{function}()"
    return ""


def _tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def _settle() -> int:
    """How many threads a fork leaves running. Some libraries end theirs in a handler before each fork, as OpenBLAS."""
    if _tasks() > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork with threads
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        deadline = time.monotonic() + _SETTLE_S
        while _tasks() > 1 and time.monotonic() < deadline:
            time.sleep(0.002)  # a thread that was joined may still be listed for a moment
    return _tasks()


def _mapped_files() -> set[str]:
    with open("/proc/self/maps") as file:
        return {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "/" in line}


def _child_processes() -> list[str]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()
    except OSError:
        return []  # a kernel without this file
