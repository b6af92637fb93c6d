from __future__ import annotations

from dataclasses import replace

import pytest

from clipper_platform.control.store_loss import Loss, loss
from clipper_platform.store.base import Changes

SEEN = Changes(revision=5, lineage=("b", "a"), server="s1", holds=frozenset({"projects", "keys"}))


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (SEEN, None),
        (replace(SEEN, revision=9, holds=frozenset()), None),
        (Changes(revision=0, lineage=()), Loss.EMPTY),
        (replace(SEEN, lineage=("c", "b", "a"), revision=1), Loss.WRITTEN_BACK),
        (replace(SEEN, lineage=("c", "a")), Loss.WRITTEN_BACK),
        (replace(SEEN, lineage=("z",)), Loss.FOREIGN),
        (replace(SEEN, lineage=("z",), holds=frozenset({"keys"})), Loss.WRITTEN_BACK),
        (replace(SEEN, revision=4), Loss.SHORTENED),
        (replace(SEEN, holds=frozenset({"keys"})), Loss.SHORTENED),
        (replace(SEEN, server="s2", revision=6), Loss.RESTARTED),
    ],
)
def test_what_happened_to_the_data_between_two_polls(found: Changes, what: Loss | None) -> None:
    assert loss(SEEN, found) is what
