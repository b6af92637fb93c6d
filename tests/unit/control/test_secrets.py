"""Secrets of a project."""

from __future__ import annotations

import pytest

from clipper_platform.control.access.secrets import MAX_SECRETS, ProjectSecrets, check_secret
from clipper_platform.errors import Conflict, InvalidRequest, NotFound
from tests.unit.control.doubles import Plane


async def test_secrets_may_be_set_before_the_first_deploy(plane: Plane) -> None:
    secrets = ProjectSecrets(plane.registry)
    await secrets.put("digits", "B", "2")
    await secrets.put("digits", "A", "1")
    assert await secrets.names("digits") == ["A", "B"]
    assert await plane.store.get_secrets("digits") == {"A": "1", "B": "2"}
    await secrets.delete("digits", "A")
    assert await secrets.names("digits") == ["B"]


async def test_what_is_not_there_is_not_found(plane: Plane) -> None:
    secrets = ProjectSecrets(plane.registry)
    with pytest.raises(NotFound, match="no project"):
        await secrets.names("nope")
    await secrets.put("digits", "A", "1")
    with pytest.raises(NotFound, match="no secret 'B'"):
        await secrets.delete("digits", "B")


async def test_a_project_has_a_limit_of_secrets(plane: Plane) -> None:
    secrets = ProjectSecrets(plane.registry)
    for number in range(MAX_SECRETS):
        await secrets.put("digits", f"S{number}", "x")
    await secrets.put("digits", "S0", "changed")
    with pytest.raises(Conflict, match=f"already has {MAX_SECRETS} secrets"):
        await secrets.put("digits", "ONE_MORE", "x")


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("lower", "x", "name"),
        ("1ST", "x", "name"),
        ("", "x", "name"),
        ("A-B", "x", "name"),
        ("A\n", "x", "name"),
        ("A" * 129, "x", "name"),
        ("CLIP_API_KEY", "x", "name"),
        ("PYTHONPATH", "x", "name"),
        ("LD_PRELOAD", "x", "name"),
        ("OK", "nul\0", "value"),
        ("OK", "\udcff", "value"),
        ("OK", "x" * 65_537, "value"),
    ],
)
def test_a_secret_that_cannot_be_an_environment_variable_is_refused(name: str, value: str, key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_secret(name, value)
    assert refused.value.details["key"] == key


def test_ordinary_secrets_pass() -> None:
    check_secret("HF_TOKEN", "hf_x")
    check_secret("_X1", "many\nlines é")
