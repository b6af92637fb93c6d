"""The control API's routes about answers that are computed beforehand."""

from __future__ import annotations

from typing import Final

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import NDJSON
from clipper_platform.errors import InvalidRequest, PayloadTooLarge
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint, Query
from clipper_platform.gateway.control_api.schemas.materializations import (
    FailedRow,
    FailedRows,
    Materialization,
    MaterializationList,
    MaterializationRequest,
)
from clipper_platform.gateway.services import Services
from clipper_platform.store.materialized_records import Job

__all__ = ["MaterializationRoutes"]

MAX_ROWS_BYTES: Final = 16 * 1024 * 1024  # of one piece of rows
_MAX_FAILURES: Final = 1000


class MaterializationRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        all_jobs = f"{API_ROOT}/materializations"
        job = f"{all_jobs}/{{id}}"
        return [
            Endpoint("GET", all_jobs, self.jobs, "All materializations", response=MaterializationList),
            Endpoint(
                "POST",
                all_jobs,
                self.begin,
                "Begin to compute a function's answers beforehand, or go on with the same",
                body=MaterializationRequest,
                response=Materialization,
                status=201,
            ),
            Endpoint("GET", job, self.job, "How far a materialization is", response=Materialization),
            Endpoint("DELETE", job, self.cancel, "Stop it; answers that are there stay", response=Materialization),
            Endpoint(
                "PUT",
                f"{job}/rows",
                self.add_rows,
                "Add rows: arguments as one JSON object per line",
                query=(Query("at", "integer", "the number of the first one; rows that are there are left alone", 0),),
                body_media_type=NDJSON,
                response=Materialization,
            ),
            Endpoint("POST", f"{job}/complete", self.complete, "All rows have come", response=Materialization),
            Endpoint(
                "GET",
                f"{job}/failures",
                self.failures,
                "Rows that failed, and why",
                query=(
                    Query("from", "integer", "only rows from this number on", 0),
                    Query("limit", "integer", f"at most so many, up to {_MAX_FAILURES}", 100),
                ),
                response=FailedRows,
            ),
        ]

    async def jobs(self, request: ApiRequest) -> MaterializationList:
        return MaterializationList(materializations=[self._view(job) for job in await self._s.materializer.jobs()])

    async def begin(self, request: ApiRequest) -> Materialization:
        body: MaterializationRequest = request.body
        if body.ttl_s is not None and not 0 < body.ttl_s < float("inf"):
            raise InvalidRequest(f"ttl_s = {body.ttl_s!r} is not allowed: it must be above 0", key="ttl_s")
        if "@" in body.function or body.function.count("/") != 1:
            raise InvalidRequest(
                f"function = {body.function[:100]!r} is not allowed: write project/function, as in digits/classify",
                key="function",
            )
        return self._view(
            await self._s.materializer.begin(body.function, body.source, ttl_s=body.ttl_s, stale=body.stale)
        )

    async def job(self, request: ApiRequest) -> Materialization:
        return self._view(await self._s.materializer.job(request.params["id"]))

    async def cancel(self, request: ApiRequest) -> Materialization:
        return self._view(await self._s.materializer.cancel(request.params["id"]))

    async def add_rows(self, request: ApiRequest) -> Materialization:
        parts, size = [], 0
        async for part in request.http.stream():
            size += len(part)
            if size > MAX_ROWS_BYTES:
                raise PayloadTooLarge(f"a piece of rows is over {MAX_ROWS_BYTES} bytes: send smaller ones")
            parts.append(part)
        rows = [line for line in b"".join(parts).split(b"\n") if line.strip()]
        return self._view(await self._s.materializer.add_rows(request.params["id"], request.query["at"], rows))

    async def complete(self, request: ApiRequest) -> Materialization:
        return self._view(await self._s.materializer.complete(request.params["id"]))

    async def failures(self, request: ApiRequest) -> FailedRows:
        limit = min(request.query["limit"], _MAX_FAILURES)
        found = await self._s.materializer.failures(request.params["id"], request.query["from"] - 1, limit)
        return FailedRows(failures=[FailedRow(row=f.number, code=f.code, message=f.message) for f in found])

    def _view(self, job: Job) -> Materialization:
        return Materialization(
            id=job.id,
            function=job.path,
            version=job.version,
            state=job.state,
            total=job.total,
            received=job.received,
            done=job.done,
            failed=job.failed,
            ttl_s=job.ttl_s,
            stale=job.stale,
            created_at=job.created_at,
            ended_at=job.ended_at,
            reason=job.reason,
            waiting=self._s.materializer.waiting.get(job.id, "") if job.open else "",
        )
