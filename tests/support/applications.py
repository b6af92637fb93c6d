"""Applications over a dispatcher, on a store in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipper.contract.applications import ApplicationSpec
from clipper_platform.applications.applications import Applications
from clipper_platform.applications.catalog import Catalog
from clipper_platform.applications.links import Wake
from clipper_platform.applications.live import PlatformParts
from clipper_platform.applications.query_ids import query_ids
from clipper_platform.clock import Clock
from clipper_platform.errors import NotFound
from clipper_platform.metrics import Metrics
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.store.base import MetadataStore
from tests.support.memory_store import MemoryStore

__all__ = ["Functions", "applications_over", "spec"]


class Functions:
    """Every function that the dispatcher has, with what it published; and `known` ones, as `project/function@N`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.known: dict[str, Mapping[str, Any]] = {}
        self.projects: set[str] = set()

    def has_project(self, name: str) -> bool:
        return name in self.projects

    async def schema(self, project: str, function: str, version: int | None) -> Mapping[str, Any]:
        path = f"{project}/{function}" if version is None else f"{project}/{function}@{version}"
        if path in self.known:
            return self.known[path]
        queue = self._dispatcher.routed.get(path)
        if queue is None:
            raise NotFound(f"there is no function {path}")
        return queue.schema or {}


def spec(name: str = "sums", **table: Any) -> ApplicationSpec:
    return ApplicationSpec.parse(name, {"input_type": "doubles", "default_output": "none", **table})


def applications_over(
    dispatcher: Dispatcher,
    *,
    clock: Clock,
    metrics: Metrics,
    store: MetadataStore | None = None,
    functions: Functions | None = None,
    wake: Wake | None = None,
) -> Applications:
    """Not opened."""
    store = store or MemoryStore(clock)
    functions = functions or Functions(dispatcher)
    catalog = Catalog(store, functions, clock, check_store=lambda: None)
    parts = PlatformParts(
        dispatcher=dispatcher,
        data=store.application_data,
        clock=clock,
        metrics=metrics,
        wake=wake,
        next_query_id=query_ids(),
        schema=functions.schema,
    )
    return Applications(catalog, parts)
