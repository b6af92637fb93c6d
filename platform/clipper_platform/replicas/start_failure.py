"""Why a replica did not start: what a deploy reports of it, and whether the function is at fault."""

from __future__ import annotations

import errno

from clipper_platform.backends.base import StartError
from clipper_platform.errors import DeployFailed, StoreUnavailable
from clipper_platform.replicas.base import Target

__all__ = ["hinders", "start_failed"]

# The platform or its machine has no descriptor, process, memory or disk left.
_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def hinders(error: BaseException) -> bool:
    """Whether the platform could not launch the replica for a reason of its own, somewhere in the chain of causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, StoreUnavailable) or (isinstance(seen, OSError) and seen.errno in _OWN):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def start_failed(target: Target, error: StartError) -> DeployFailed:
    """The deploy's error, with the replica's last log lines and a hint."""
    exception = f"{error.error_type}: {error.message}" if error.error_type else error.message
    return DeployFailed(
        f"{target.id.function} did not start ({error.phase}): {exception}",
        phase=error.phase,
        exception=exception,
        log=[*error.log, *error.traceback.splitlines()],
        hint=start_hint(target, error),
        function=target.id.function,
    )


def start_hint(target: Target, error: StartError) -> str:
    """What the user can do about it."""
    name = target.id.function
    match error.phase:
        case "timeout":
            return (
                f"setup took longer than startup_timeout_s = {target.spec.startup_timeout_s:g}; raise it in "
                f"[functions.{name}], or load less in __init__"
            )
        case "import" if error.error_type in ("ModuleNotFoundError", "ImportError"):
            return "add the missing package to requirements in clip.toml, or the missing file to the project"
        case "import" | "load":
            return f"the entrypoint {target.spec.entrypoint!r} could not be loaded; the traceback says where"
        case "schema":
            return "correct the function's type hints; every parameter of a batched function is a list"
        case "setup":
            return f"{name}'s __init__ raised; the traceback says where"
        case _:
            return "the replica's process ended before it was ready; its last lines are above"
