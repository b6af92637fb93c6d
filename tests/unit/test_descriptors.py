"""How many descriptors connections may take."""

from __future__ import annotations

import pytest

from clipper_platform.descriptors import WANTED, connection_descriptors, raise_limit

NOFILE = "clipper_platform.descriptors.resource"


@pytest.mark.parametrize(("limit", "left"), [(256, 64), (1024, 256), (4096, 1024), (65_536, 1024)])
def test_a_quarter_is_kept_for_replicas_and_files_at_most_1024(limit: int, left: int) -> None:
    assert limit - connection_descriptors(limit) == left


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [(1024, 4096, 4096), (1024, 1_048_576, WANTED), (1024, -1, WANTED), (100_000, 200_000, None), (-1, -1, None)],
)
def test_the_soft_limit_is_raised_as_far_as_the_hard_one_and_never_lowered(
    soft: int, hard: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(f"{NOFILE}.getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(f"{NOFILE}.setrlimit", lambda _, limits: set_to.append(limits))
    raise_limit()
    assert set_to == ([] if raised is None else [(raised, hard)])
