"""Options of a function."""

from __future__ import annotations

import pytest

from clipper.contract.spec import FunctionSpec, SpecError


def test_a_snapshot_is_switched_on_by_true() -> None:
    assert FunctionSpec.parse("f", "app:F", {}).snapshot is False
    spec = FunctionSpec.parse("f", "app:F", {"snapshot": True})
    assert FunctionSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(SpecError, match="snapshot = 1 is not allowed: it must be true or false"):
        FunctionSpec.parse("f", "app:F", {"snapshot": 1})
