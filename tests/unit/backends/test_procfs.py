"""Facts from /proc about a process."""

from __future__ import annotations

import os

from clipper_platform.backends.process.procfs import start_time, tree_rss
from tests.support.sleeper import sleeper


def test_the_memory_of_a_tree_counts_children_and_ends_with_it() -> None:
    with sleeper() as process:
        alone = tree_rss(process.pid)
        assert alone is not None
        assert alone > 1 << 20
        assert (tree_rss(os.getpid()) or 0) > alone
        assert start_time(process.pid) is not None
        process.kill()
        process.wait()
        assert tree_rss(process.pid) is None
        assert start_time(process.pid) is None
