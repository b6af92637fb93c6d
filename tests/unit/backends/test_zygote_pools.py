"""Which launches a zygote fits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipper_platform.backends.process.zygote_pools import fits
from tests.support.replicas import launch_on, launch_spec


@pytest.mark.parametrize(
    ("env", "files", "fit"),
    [
        ({}, ["app.py", "data.csv"], True),
        ({"API_KEY": "x"}, ["app.py"], True),
        ({}, ["numpy.py"], False),
        ({}, ["numpy.cpython-311-x86_64-linux-gnu.so"], False),
        ({"OMP_NUM_THREADS": "1"}, ["app.py"], False),
        ({"HF_TOKEN": "x"}, ["app.py"], False),
        ({"HOME": "/elsewhere"}, ["app.py"], False),
        ({"HOME": "/root"}, ["app.py"], True),
    ],
)
def test_a_replica_is_forked_only_if_it_equals_a_fresh_one(
    tmp_path: Path, env: dict[str, str], files: list[str], fit: bool
) -> None:
    launch = launch_on(launch_spec(tmp_path, env=env))
    for name in files:
        (launch.bundle / name).touch()
    zygote: Any = SimpleNamespace(modules={"numpy", "json"}, env={"HOME": "/root", "CLIP_REPLICA": "..."})
    assert fits(launch, zygote) is fit
