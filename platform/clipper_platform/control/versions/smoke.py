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

# A traceback comes through the log's pipe, a moment after the answer that says there is one.
LOG_DELAY_S: Final = 0.2
MAX_LOG_LINES: Final = 50


async def smoke(deployment: Deployment, calls: Mapping[str, Any], version: int, router: Router, logs: LogStore) -> None:
    """Call each function of the version with the arguments that `calls` holds under its name, one after the other.

    Raises DeployFailed with what the function logged.
    """
    said: deque[str] = deque(maxlen=MAX_LOG_LINES)

    def hear(function: FunctionId, line: LogLine) -> None:
        said.append(line.message)
        deployment.emit("log", line.message, phase="smoke", data={"function": function.function})

    with logs.tap(deployment.project, version, hear):
        for name, arguments in calls.items():
            try:
                await call(router, FunctionId(deployment.project, name, version), arguments)
            except ClipperError as error:
                await asyncio.sleep(LOG_DELAY_S)
                raise DeployFailed(
                    f"version {version} of {name} did not pass its smoke call: {error.message}",
                    phase="smoke",
                    exception=error.message,
                    log=list(said),
                    hint=f"the arguments stand in clip.toml, [deploy.smoke] {name}",
                    function=name,
                ) from error


async def call(router: Router, function: FunctionId, arguments: Any) -> None:
    """Call it once, past the result cache: the version is tried, not what an earlier run of it left.

    Raises what the call met, and InvalidResult where only the default output answered.
    """
    answer = await router.call(
        function, msgspec.json.encode(arguments), request_id=f"smoke-{function.version}", use_cache=False
    )
    if answer.default_reason:
        raise InvalidResult(f"only the default output answered ({answer.default_reason})")
