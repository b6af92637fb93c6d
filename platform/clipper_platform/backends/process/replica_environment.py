"""A replica's environment variables: a few of the platform's, the project's, and what the runtime needs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from clipper.contract.constants import REPLICA_VARIABLE
from clipper_platform.backends.process.guardian import MARKER
from clipper_platform.backends.process.launch import Launch

__all__ = ["replica_environment"]

# Passed on from the platform's environment: the user's home, language and time zone, the trusted certificates and the
# proxies, and the devices and numbers of threads that libraries use.
_PASSED = re.compile(
    r"(HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|LD_LIBRARY_PATH"
    r"|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|(?i:(http|https|all|no)_proxy)"
    r"|(CUDA|NVIDIA|ROCR|HIP)_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES|CUDA_(HOME|PATH)"
    r"|(OMP|MKL|OPENBLAS|NUMEXPR|VECLIB_MAXIMUM)_NUM_THREADS"
    r"|HF_HOME|HF_HUB_OFFLINE|TRANSFORMERS_(CACHE|OFFLINE)|TORCH_HOME|XDG_CACHE_HOME)\Z"
)


def replica_environment(
    launch: Launch,
    *,
    platform: Mapping[str, str],
    instance_id: str,
    runtime: Path,
    tmp: Path,
    url: str | None,
    home: Path | None = None,
) -> dict[str, str]:
    """`platform`: the platform's own environment, of which a few variables are passed on. `runtime`: the staged
    packages. `tmp`: a directory of the replica alone. The project's variables override what is passed on; those that
    the platform sets override the project's (`contract.variables` refuses their names). `home`: of the project's own
    user, if it has one; the caches that lie in homes are its own then too.
    """
    spec, python = launch.spec, launch.environment.python
    passed = {key: value for key, value in platform.items() if _PASSED.match(key)}
    if home is not None:
        passed = _of_user(passed, home, spec.function.project)
    path = os.pathsep.join([str(python.parent), platform.get("PATH") or os.defpath])
    merged = {"LANG": "C.UTF-8"} | passed | dict(spec.env)
    merged |= {
        "PATH": path,
        MARKER: instance_id,
        "CLIP_PROJECT": spec.function.project,
        "CLIP_FUNCTION": spec.function.function,
        "CLIP_VERSION": str(spec.function.version),
        REPLICA_VARIABLE: spec.replica,
        "PYTHONPATH": str(runtime),
        # Output is not buffered, also that of Python processes that user code starts.
        "PYTHONUNBUFFERED": "1",
        # A crash, and a start that takes too long, write a traceback.
        "PYTHONFAULTHANDLER": "1",
        "TMPDIR": str(tmp),
        "VIRTUAL_ENV": str(launch.environment.path),
    }
    if url is not None:
        merged.setdefault("CLIP_URL", url)
    return merged


def _of_user(passed: dict[str, str], home: Path, name: str) -> dict[str, str]:
    """With the user's home, and a name for it: `getpass` looks into /etc/passwd where the variables have none."""
    passed.pop("XDG_CACHE_HOME", None)
    return passed | {"HOME": str(home), "USER": name, "LOGNAME": name}
