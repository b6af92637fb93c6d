from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.gateway.gate import Gate, make_gate


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    gate = await make_gate(tmp_path)
    yield gate
    await gate.close()
