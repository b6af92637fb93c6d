"""Obstacles to a fork. Each case is a process of its own, so that what it opens does not stay in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipper_runtime.fork_safety import gpu_in_use

# The null device stands for a GPU's: it opens and maps as any device does.
DEVICES = ("/dev/zero",)


def verdict(act: str, tmp_path: Path) -> str:
    code = f"""
import ctypes, mmap, os, sys, types
from clipper_runtime.fork_safety import open_descriptors, fork_obstacle
before = open_descriptors()
{act}
print(fork_obstacle(before, {DEVICES!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_a_device_of_a_gpu_that_is_open_is_a_context(tmp_path: Path) -> None:
    obstacle = verdict("fd = os.open('/dev/zero', os.O_RDWR)", tmp_path)
    assert obstacle == "it holds a GPU context (/dev/zero is in use), which a forked process cannot use"


def test_a_device_that_is_only_mapped_any_more_is_a_context_too(tmp_path: Path) -> None:
    act = "fd = os.open('/dev/zero', os.O_RDWR); held = mmap.mmap(fd, 4096, mmap.MAP_SHARED); os.close(fd)"
    # mmap keeps a copy of the descriptor: close that as well, as a driver may.
    act += "\nfor n, target in open_descriptors().items():\n    if target == '/dev/zero': os.close(n)"
    assert "GPU context (/dev/zero" in verdict(act, tmp_path)


def test_another_device_may_stay_open(tmp_path: Path) -> None:
    assert verdict("fd = os.open('/dev/null', os.O_RDWR)", tmp_path) == ""


def test_a_driver_that_is_loaded_but_not_used_is_no_context(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1"
    library.write_bytes(b"\0" * 4096)
    act = "fd = os.open('libcuda.so.1', os.O_RDONLY); held = mmap.mmap(fd, 4096, prot=mmap.PROT_READ); os.close(fd)"
    assert verdict(act, tmp_path) == ""


@pytest.mark.parametrize(("initialized", "words"), [(True, "torch.cuda.is_initialized()"), (False, "")])
def test_torch_is_asked_where_it_is_loaded(tmp_path: Path, initialized: bool, words: str) -> None:
    act = f"cuda = types.ModuleType('torch.cuda'); cuda.is_initialized = lambda: {initialized}\n"
    obstacle = verdict(act + "sys.modules['torch.cuda'] = cuda", tmp_path)
    assert (words in obstacle) if words else obstacle == ""


@pytest.mark.parametrize(
    "file", ["/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128"]
)
def test_the_files_of_gpu_drivers_are_known(file: str) -> None:
    assert gpu_in_use(["/usr/lib/libcuda.so.1", file]) == f"{file} is in use"


def test_an_open_file_is_an_obstacle_and_a_fresh_process_has_none(tmp_path: Path) -> None:
    assert verdict("", tmp_path) == ""
    assert verdict("file = open('weights', 'w')", tmp_path) == (
        f"it left the file {tmp_path}/weights open, whose position replicas would share"
    )
