"""A confined process reads its rules without msgspec, so they are declared twice."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from clipper.contract.confinement import CONFINEMENT_VARIABLE, Confinement, encode
from clipper_platform.backends.process.staging import find_packages
from clipper_runtime.confinement import VARIABLE, Rules, take_rules


def test_the_rules_have_the_fields_of_the_contract() -> None:
    assert Rules._fields == Confinement.__struct_fields__
    assert VARIABLE == CONFINEMENT_VARIABLE


def test_what_the_platform_writes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    confinement = Confinement(mode="mounts", hidden=["/h"], writable=["/h/w"], overlays=[("/c", "/p")])
    monkeypatch.setenv(VARIABLE, encode(confinement).decode())
    rules = take_rules()
    assert rules is not None
    assert msgspec.convert(json.loads(json.dumps(rules._asdict())), Confinement) == confinement
    assert take_rules() is None


def test_no_installed_package_is_needed_to_confine() -> None:
    runtime = find_packages()["clipper_runtime"].parent
    code = f"import sys; sys.path.insert(0, {str(runtime)!r}); import clipper_runtime.__main__"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=30)
