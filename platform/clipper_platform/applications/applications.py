"""The applications of a platform: what they declare, and how they are queried."""

from __future__ import annotations

from clipper.contract.applications import LinkSpec
from clipper_platform.applications.catalog import Catalog
from clipper_platform.errors import ClipperError
from clipper_platform.serving.dispatcher import Dispatcher

__all__ = ["Applications"]


class Applications:
    def __init__(self, catalog: Catalog, dispatcher: Dispatcher) -> None:
        self.catalog = catalog
        self._dispatcher = dispatcher

    def link_state(self, link: LinkSpec) -> tuple[int | None, str]:
        """The version that the link asks now, None where none can be asked; and a word or why not."""
        try:
            queue = self._dispatcher.resolve(link.id)
        except ClipperError as error:
            return None, str(error)
        reason = queue.closed or queue.no_capacity
        if reason and not queue.endpoints.by_id:
            return None, reason
        return queue.target.id.version, "ready" if queue.endpoints.by_id else "no replica runs; a call starts one"
