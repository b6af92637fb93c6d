"""What the result cache has of the answers to an input, so that feedback by input needs no query id."""

from __future__ import annotations

import msgspec

from clipper.contract.media_types import JSON
from clipper_platform.applications.live import LiveApplication
from clipper_platform.core import caching
from clipper_platform.core.selection import ModelId
from clipper_platform.errors import ClipperError

__all__ = ["cached_answers"]


def cached_answers(live: LiveApplication, input: msgspec.Raw) -> dict[ModelId, msgspec.Raw]:
    """The kept JSON answers of the linked functions, by link."""
    found = {}
    for model, queue in live.links.queues().items():
        if not queue.cached:
            continue
        try:
            body = live.links.all[model].body(queue, input)
        except ClipperError:
            continue
        result = live.dispatcher.cache.peek(caching.key(queue.cached_as, JSON, JSON, body))
        if result is not None and result.content_type == JSON:
            found[model] = msgspec.Raw(bytes(result.payload))
    return found
