"""`python -m clipper_runtime.confinement_probe DIRECTORY auto|mounts|landlock|none [UID]`: tries what confines replicas
here; with UID, which root alone can give, as that user.

It works inside the directory and prints a Probe as JSON. It believes what it sees and no version of a kernel, because
containers, security modules and settings refuse what a kernel has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from clipper.contract.confinement import Mode, Probe, encode
from clipper_runtime import kernel
from clipper_runtime.confinement import Rules, confine

__all__ = ["main", "probe"]

_SIGNALS, _MEMORY = 1, 2
_CAP_SYS_ADMIN: Final = 21
_FAILED: Final = 255


def main() -> None:
    uid = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    sys.stdout.buffer.write(encode(probe(Path(sys.argv[1]), sys.argv[2], uid)))


def probe(directory: Path, allowed: str, uid: int = 0) -> Probe:
    """Tries the modes in their order of preference, or the one that is allowed, each in a process of its own."""
    _make_files(directory, uid)
    abi, reasons = kernel.landlock_abi(), dict[str, str]()
    admin = bool(kernel.capabilities() >> _CAP_SYS_ADMIN & 1)
    attempts: list[tuple[Mode, bool]] = [("mounts", not admin)]
    if abi:
        attempts.append(("landlock", False))
    else:
        reasons["landlock"] = "the kernel has no Landlock, or it is not among its security modules"
    if uid:
        attempts.append(("none", False))
    for mode, user_namespace in attempts:
        if allowed not in ("auto", mode):
            reasons[mode] = f"switched off (isolation = {allowed})"
            continue
        rules = Rules(
            mode=mode,
            user_namespace=user_namespace,
            hidden=[str(directory / "hidden")],
            read_only=[str(directory / "hidden/shown")],
            writable=[str(directory / "open")],
            uid=uid,
        )
        found, why = _in_child(lambda rules=rules: _try(rules, directory))  # type: ignore[misc]
        if found is not None:
            return Probe(
                mode=mode,
                user_namespace=user_namespace,
                landlock=abi,
                signals=bool(found & _SIGNALS),
                memory=bool(found & _MEMORY),
                users=uid != 0,
                reasons=reasons,
            )
        reasons[mode] = why
    return Probe(mode="none", landlock=abi, reasons=reasons)


def _make_files(directory: Path, uid: int) -> None:
    """With a user, they have the modes that those of the platform have for users of projects."""
    for name in ("hidden/shown", "open"):
        (directory / name).mkdir(parents=True)
    (directory / "hidden/file").write_text("x")
    (directory / "hidden/shown/file").write_text("x")
    if not uid:
        return
    for path, mode in (
        ("", 0o711),
        ("hidden", 0o711),
        ("hidden/file", 0o600),
        ("hidden/shown", 0o755),
        ("open", 0o700),
    ):
        (directory / path).chmod(mode)
    os.chown(directory / "open", uid, uid)


def _in_child(work: Callable[[], int]) -> tuple[int | None, str]:
    """What `work` returns in a forked process; None and the reason if it raises."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = _FAILED
        try:
            status = work()
        except BaseException as error:  # noqa: BLE001 - this process is only here for the answer
            os.write(writing, str(error).encode()[:1000])
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        why = file.read().decode("utf-8", "replace")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return (status, "") if 0 <= status < _FAILED else (None, why or f"it ended with {status}")


def _try(rules: Rules, directory: Path) -> int:
    """Confine this process, and look. Raises OSError if the files are not as they must be."""
    parent = os.getppid()
    confine(rules)
    (directory / "open/file").write_text("x")
    (directory / "hidden/shown/file").read_text()
    if _works(lambda: (directory / "hidden/file").read_text()):
        raise OSError("a hidden file can be read")
    if _works(lambda: (directory / "hidden/shown/file").write_text("y")):
        raise OSError("a read-only file can be written")
    found = 0
    if not _works(lambda: os.kill(parent, 0)):
        found |= _SIGNALS
    if not _works(lambda: Path(f"/proc/{parent}/environ").read_bytes()):
        found |= _MEMORY
    return found


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
