"""The calls that a new version must answer before it gets any traffic."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from clipper_platform.control.log_store import LogStore
from clipper_platform.control.log_stream import LogLine
from clipper_platform.control.ports import Router
from clipper_platform.control.versions.deployment import Deployment
from clipper_platform.errors import ClipperError, DeployFailed, InvalidResult
from clipper_platform.types import FunctionId

__all__ = ["smoke"]

# The traceback comes through the pipe of the log, a moment after the answer.
LOG_DELAY_S: Final = 0.2
MAX_LOG_LINES: Final = 50


async def smoke(deployment: Deployment, calls: Mapping[str, Any], version: int, router: Router, logs: LogStore) -> None:
    """Call each function of the version with the arguments that `calls` holds under its name, one after the other.

    Raises DeployFailed with what the function logged.
    """
    logged: deque[str] = deque(maxlen=MAX_LOG_LINES)

    def record(function: FunctionId, line: LogLine) -> None:
        logged.append(line.message)
        deployment.emit("log", line.message, phase="smoke", data={"function": function.function})

    with logs.tap(deployment.project, version, record):
        for name, arguments in calls.items():
            try:
                await call(router, FunctionId(deployment.project, name, version), arguments)
            except ClipperError as error:
                await asyncio.sleep(LOG_DELAY_S)
                raise DeployFailed(
                    f"version {version} of {name} did not pass its smoke call: {error.message}",
                    phase="smoke",
                    exception=error.message,
                    log=list(logged),
                    hint=f"the arguments stand in clip.toml, [deploy.smoke] {name}",
                    function=name,
                ) from error


async def call(router: Router, function: FunctionId, arguments: Any) -> None:
    """Call the function once, without the result cache: it may hold answers of an earlier run of the version.

    Raises what the call raises, and InvalidResult if only the default output answered.
    """
    answer = await router.call(
        function, msgspec.json.encode(arguments), request_id=f"smoke-{function.version}", use_cache=False
    )
    if answer.default_reason:
        raise InvalidResult(f"only the default output answered ({answer.default_reason})")
