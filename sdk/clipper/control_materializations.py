"""Calls of the control API about answers that are computed beforehand, as `ControlClient` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import NDJSON
from clipper.control_requests import ControlRequests, as_list, as_object, segment
from clipper.retrying import Request

__all__ = ["MaterializationCalls"]

_JOBS = f"{API_ROOT}/materializations"


class MaterializationCalls(ControlRequests):
    """A materialization is a job of the platform: rows of arguments, whose answers it computes and keeps."""

    def materializations(self) -> list[dict[str, Any]]:
        """Newest first."""
        return as_list(self._get(_JOBS), "materializations")

    def begin_materialization(
        self, function: str, source: str, *, ttl_s: float | None = None, stale: Literal["serve", "miss"] = "miss"
    ) -> dict[str, Any]:
        """A new job, or the open one for the same version and source: `received` says how many rows it has."""
        return self._send("POST", _JOBS, {"function": function, "source": source, "ttl_s": ttl_s, "stale": stale})

    def materialization(self, id: str) -> dict[str, Any]:
        """How far it is. Raises NotFound."""
        return self._get(_job(id))

    def add_rows(self, id: str, at: int, rows: Sequence[bytes]) -> dict[str, Any]:
        """Send rows `at`, `at` + 1, …, each a JSON object of arguments in one line. Sending them twice is sending them
        once. Raises Conflict where rows before them are missing."""
        content = b"".join(row + b"\n" for row in rows)
        request = Request(
            method="PUT",
            path=f"{_job(id)}/rows",
            content=content,
            params={"at": at},
            headers={"Content-Type": NDJSON},
            timeout_s=self.timeout_s,
            safe=True,
        )
        return as_object(self._whole(request).content)

    def complete_materialization(self, id: str) -> dict[str, Any]:
        """All rows have been sent."""
        return self._send("POST", f"{_job(id)}/complete")

    def cancel_materialization(self, id: str) -> dict[str, Any]:
        """Stop it; the answers that are there stay."""
        return self._send("DELETE", _job(id))

    def failed_rows(self, id: str, start: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """`row`, `code` and `message` of rows that failed, from the number `start` on."""
        return as_list(self._get(f"{_job(id)}/failures", {"from": start, "limit": limit}), "failures")


def _job(id: str) -> str:
    return f"{_JOBS}/{segment(id)}"
