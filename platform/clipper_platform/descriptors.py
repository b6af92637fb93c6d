"""File descriptors: as many as the machine allows, with a reserve that client connections never take."""

from __future__ import annotations

import logging
import resource
from typing import Final

__all__ = ["connection_descriptors", "current_limit", "raise_limit"]

logger = logging.getLogger(__name__)

# A connection and a replica take one and five each. More than the hard limit of most machines, and little enough that
# programs that walk through all possible descriptors when they start do not take long.
WANTED: Final = 65_536
# For replicas that start (ten while one starts, five when it runs), files of the store, logs and bundles.
MOST_RESERVED: Final = 1_024


def raise_limit() -> None:
    """Raise the soft limit, which is 1,024 on most machines, as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            logger.warning("the limit of open files stays at %d: %s", soft, error)


def current_limit() -> int:
    """The soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def connection_descriptors(limit: int) -> int:
    """The descriptors below this number may be client connections. The kernel gives the lowest free one, so a
    connection with a higher number means that only the reserve is left."""
    return limit - min(MOST_RESERVED, limit // 4)
