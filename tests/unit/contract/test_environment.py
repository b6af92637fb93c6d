"""What `[environment]` declares about warm pools."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper.contract.spec import EnvironmentSpec, SpecError
from clipper_platform.environments.venv import VenvBuilder


def test_the_size_of_a_pool_travels_in_the_manifest_and_changes_nothing_that_is_installed(tmp_path: Path) -> None:
    builder = VenvBuilder(tmp_path)
    declared = EnvironmentSpec.parse({"requirements": ["numpy"], "warm_pool_size": 2})
    assert declared.warm_pool_size == 2
    assert EnvironmentSpec.parse(declared.to_dict()) == declared
    without = EnvironmentSpec.parse({"requirements": ["numpy"]})
    assert "warm_pool_size" not in without.to_dict()
    assert builder.identify(declared) == builder.identify(without)


@pytest.mark.parametrize("size", [-1, 17, True, "2", 1.0])
def test_the_size_of_a_pool_is_bounded(size: object) -> None:
    with pytest.raises(SpecError, match="warm_pool_size"):
        EnvironmentSpec.parse({"warm_pool_size": size})
