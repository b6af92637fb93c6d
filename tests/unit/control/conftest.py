from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.control.doubles import Plane, make_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = make_plane(tmp_path)
    await plane.registry.load()
    yield plane
    plane.store.outage = ""
    for gate in plane.gates.closed.values():
        gate.set()
    await plane.deployer.close()
    await plane.logs.close()
    assert plane.environments.running == 0, "a build was left behind"
    assert not plane.serving.starting, "a start was left behind"
