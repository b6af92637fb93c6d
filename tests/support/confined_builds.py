"""Builders of environments whose builds are confined as on a platform, where this machine offers it."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

from clipper.contract.confinement import Probe
from clipper_platform.backends.process.isolation import Isolation, probe_machine
from clipper_platform.backends.process.staging import find_packages
from clipper_platform.environments.venv import VenvBuilder

__all__ = ["confined_builder", "machine_probe"]

RUNTIME = find_packages()["clipper_runtime"].parent


@functools.cache
def machine_probe() -> Probe:
    with tempfile.TemporaryDirectory() as place:
        return probe_machine(RUNTIME, Path(place))


def confined_builder(root: Path, *, hidden: tuple[Path, ...] = (), **options: Any) -> VenvBuilder:
    """`hidden`: what builds must not see besides other environments."""
    builder = VenvBuilder(root, **options)
    environ = options.get("environ", os.environ)
    builder.isolate(Isolation(probe=machine_probe(), hidden=(root, *hidden), runtime=RUNTIME, environ=environ))
    return builder
