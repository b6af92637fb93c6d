"""What a replica sees of the platform's environment, and what overrides what."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper.contract.spec import SpecError
from clipper.contract.variables import check_variable
from clipper_platform.backends.process.replica_environment import replica_environment
from tests.support.replicas import launch_on, launch_spec


def environment(tmp_path: Path, *, url: str | None = None, **secrets: str) -> dict[str, str]:
    platform = {
        "PATH": "/usr/bin", "HOME": "/home/ann", "LC_CTYPE": "C", "TZ": "UTC", "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "2", "SSL_CERT_FILE": "/c", "https_proxy": "p",
        "AWS_SECRET_ACCESS_KEY": "s", "CLIP_API_KEY": "s", "PYTHONHOME": "/x", "PYTHONSTARTUP": "/y", "LD_PRELOAD": "z",
        "CLIP_PLATFORM_INSTANCE": "outer",
    }  # fmt: skip
    launch = launch_on(launch_spec(tmp_path, env=secrets))
    return replica_environment(
        launch, platform=platform, instance_id="abcd1234", runtime=Path("/runtime"), tmp=Path("/tmp/t"), url=url
    )


def test_little_is_passed_and_no_secret_of_the_platform(tmp_path: Path) -> None:
    seen = environment(tmp_path)
    for name in ("HOME", "LC_CTYPE", "TZ", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SSL_CERT_FILE", "https_proxy"):
        assert name in seen
    for name in ("AWS_SECRET_ACCESS_KEY", "CLIP_API_KEY", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD"):
        assert name not in seen


def test_it_says_who_the_replica_is_and_where_it_belongs(tmp_path: Path) -> None:
    seen = environment(tmp_path, url="http://127.0.0.1:8700")
    assert (seen["CLIP_PROJECT"], seen["CLIP_FUNCTION"], seen["CLIP_VERSION"]) == ("demo", "obey", "3")
    assert seen["CLIP_REPLICA"].startswith("r")
    assert seen["CLIP_PLATFORM_INSTANCE"] == "abcd1234"
    assert seen["CLIP_URL"] == "http://127.0.0.1:8700"
    assert seen["TMPDIR"] == "/tmp/t"
    assert seen["PATH"].endswith(":/usr/bin")
    assert not seen["PATH"].startswith("/usr/bin")


def test_a_project_cannot_have_a_variable_that_the_platform_sets(tmp_path: Path) -> None:
    launch = launch_on(launch_spec(tmp_path))
    set_by_platform = replica_environment(
        launch, platform={}, instance_id="abcd1234", runtime=Path("/runtime"), tmp=Path("/tmp/t"), url="http://x"
    )
    for name in set_by_platform.keys() - {"LANG"}:  # a default only
        with pytest.raises(SpecError, match="set by the platform"):
            check_variable(name, "x", where="")


def test_secrets_override_what_is_passed_but_not_what_the_platform_needs(tmp_path: Path) -> None:
    seen = environment(
        tmp_path,
        TZ="Europe/Rome",
        TOKEN="t",
        CLIP_PLATFORM_INSTANCE="mine",
        PYTHONPATH="lib",
        TMPDIR="/mine",
        PATH="/p",
    )
    assert (seen["TZ"], seen["TOKEN"]) == ("Europe/Rome", "t")
    assert seen["CLIP_PLATFORM_INSTANCE"] == "abcd1234"
    assert seen["PYTHONPATH"] == "/runtime"
    assert seen["PATH"].endswith(":/usr/bin")
    assert seen["TMPDIR"] == "/tmp/t"


def test_bytecode_is_kept_where_python_keeps_it(tmp_path: Path) -> None:
    """A prefix of our own would make the first replica of an environment compile the standard library again."""
    assert not {"PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"} & set(environment(tmp_path))
