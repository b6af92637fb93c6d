from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def files() -> Path:
    """Small models that the libraries themselves wrote: `tests/support/make_model_files.py`."""
    return Path(__file__).parents[2] / "support" / "model_files"
