from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def files() -> Path:
    """Small models that the libraries themselves wrote: `make_files.py`."""
    return Path(__file__).parent / "files"
