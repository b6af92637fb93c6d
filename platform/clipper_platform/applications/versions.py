"""A query that names the version to ask, as Clipper's clients do for an application with one model."""

from __future__ import annotations

import asyncio

from clipper_platform.applications.live import LiveApplication, Queues
from clipper_platform.applications.refusals import QUERY_ERROR, BadQuery
from clipper_platform.errors import ClipperError, Conflict, NotFound

__all__ = ["versioned"]


async def versioned(live: LiveApplication, version: str, deadline: float) -> Queues:
    """The queue of this version of the one linked model; none if it does not start by the deadline.

    Raises BadQuery where there is no such version, or more than one model.
    """
    links = list(live.links.all.values())
    if not links:
        return {}
    if len(links) > 1:
        raise BadQuery(QUERY_ERROR, f"Too many models linked to application {live.name}")
    spec = links[0].spec
    unknown = BadQuery(QUERY_ERROR, f"Requested version: {version} does not exist for model: {spec.function}")
    number = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else 0
    try:
        if not number:
            raise unknown
        await live.parts.schema(spec.project, spec.name, number)
    except (NotFound, Conflict):
        raise unknown from None
    path = f"{spec.function}@{number}"
    queue = live.dispatcher.routed.get(path)
    if queue is None and live.parts.wake is not None:
        try:
            async with asyncio.timeout(max(0.0, deadline - live.now())):
                await live.parts.wake(path)
        except (TimeoutError, ClipperError):
            return {}
        queue = live.dispatcher.routed.get(path)
    return {} if queue is None else {links[0].id: queue}
