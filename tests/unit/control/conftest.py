from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.control.doubles import Plane, make_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    made = make_plane(tmp_path)
    await made.registry.load()
    yield made
    made.store.outage = ""
    for gate in made.gates.closed.values():
        gate.set()
    await made.deployer.close()
    await made.logs.close()
    assert made.environments.running == 0, "a build was left behind"
    assert not made.serving.starting, "a start was left behind"
