"""The control API's route to a function's log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

import msgspec
from starlette.responses import Response

from clipper.contract.constants import API_ROOT, DEFAULT_LOG_LINES
from clipper.contract.media_types import NDJSON
from clipper.contract.spec import SpecError, check_name
from clipper_platform.control.log_store import MAX_TAIL
from clipper_platform.control.log_stream import LogReader
from clipper_platform.errors import NotFound
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint, Query
from clipper_platform.gateway.control_api.streams import HEARTBEAT_S, LineStream
from clipper_platform.gateway.services import Services

__all__ = ["LogRoutes"]


class LogRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "GET",
                f"{API_ROOT}/projects/{{project}}/functions/{{function}}/logs",
                self.logs,
                "A function's log, oldest line first",
                media_type=NDJSON,
                query=(
                    Query("tail", "integer", f"the newest so many lines, up to {MAX_TAIL}"),
                    Query("since", "number", "only lines from this time on, in Unix seconds"),
                    Query("follow", "boolean", "stay open and send new lines; an empty line is a heartbeat", False),
                ),
                streams=True,
            ),
        ]

    async def logs(self, request: ApiRequest) -> Response:
        project, function = request.params["project"], request.params["function"]
        self._check_known(project, function)
        tail, since = request.query["tail"], request.query["since"]
        if tail is None:
            tail = DEFAULT_LOG_LINES if since is None else MAX_TAIL
        reader = await self._s.logs.open(project, function, tail=tail, since=since)
        if request.query["follow"]:
            return LineStream(_followed(reader), self._s.lifecycle, on_close=reader.close)
        reader.close()
        return Response(_ndjson(await reader.next() or ()), media_type=NDJSON)

    def _check_known(self, project: str, function: str) -> None:
        """Raises NotFound for a function that is neither deployed nor has a log from an earlier version."""
        self._s.registry.project(project)
        current = self._s.registry.current(project)
        unusable = self._s.registry.unusable(project)
        deployed = current is not None and current.function(function) is not None
        deployed = deployed or (unusable is not None and function in unusable.functions)
        if not deployed and not (_is_name(function) and self._s.logs.known(project, function)):
            raise NotFound(f"project {project!r} has no function {function!r}")


def _is_name(text: str) -> bool:
    try:
        check_name(text, "function")
    except SpecError:
        return False
    return True


async def _followed(reader: LogReader) -> AsyncGenerator[bytes, None]:
    while (lines := await reader.next(HEARTBEAT_S)) is not None:
        yield _ndjson(lines) or b"\n"


def _ndjson(lines: Iterable[object]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
