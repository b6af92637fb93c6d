"""`[apps.NAME]` of clip.toml: what it may say, what it means, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper.contract.applications import LinkSpec
from clipper.contract.manifest import Manifest
from clipper.contract.spec import SpecError
from clipper.project import Project, load_project

APP = """
import clipper

@clipper.function()
def svm(x: list[float]) -> int: ...

@clipper.function()
def forest(x: list[float]) -> int: ...

@clipper.function()
def choose(op: str) -> dict: ...
"""

BUNDLE = "sha256:" + "a" * 64


def project(directory: Path, toml: str) -> Project:
    (directory / "app.py").write_text(APP)
    (directory / "clip.toml").write_text(f'name = "digits"\n{toml}')
    return load_project(directory)


def app_table(lines: str) -> str:
    return f'[apps.vision]\ninput_type = "doubles"\ndefault_output = -1\n{lines}'


def test_an_application_has_its_keys_and_the_defaults_of_the_others(tmp_path: Path) -> None:
    (spec,) = project(tmp_path, app_table('latency_slo_s = 0.02\npolicy = "exp3"\npolicy_options = { eta = 0.1 }')).apps
    assert (spec.name, spec.input_type, spec.default_output) == ("vision", "doubles", -1)
    assert (spec.latency_slo_s, spec.policy, spec.policy_options) == (0.02, "exp3", {"eta": 0.1})
    assert (spec.loss, spec.links) == ("zero_one", ())


def test_a_bare_name_is_a_function_of_this_project(tmp_path: Path) -> None:
    links = (
        'links = ["svm", "forest@3", "other/f", "digits/forest", { function = "svm", version = 2, parameter = "x" }]'
    )
    (spec,) = project(tmp_path, app_table(links)).apps
    assert spec.links == (
        LinkSpec(function="digits/svm"),
        LinkSpec(function="digits/forest", version=3),
        LinkSpec(function="other/f"),
        LinkSpec(function="digits/forest"),
        LinkSpec(function="digits/svm", version=2, parameter="x"),
    )


@pytest.mark.parametrize(
    ("policy", "meant"), [("choose", "digits/choose"), ("other/choose", "other/choose"), ("mean", "mean")]
)
def test_a_policy_of_ones_own_may_be_a_function_of_this_project(tmp_path: Path, policy: str, meant: str) -> None:
    (spec,) = project(tmp_path, app_table(f'policy = "{policy}"')).apps
    assert spec.policy == meant


def test_several_applications_keep_the_files_order(tmp_path: Path) -> None:
    tables = "".join(f'[apps.{name}]\ninput_type = "strings"\ndefault_output = "?"\n' for name in ("z", "a", "m"))
    assert [spec.name for spec in project(tmp_path, tables).apps] == ["z", "a", "m"]


def test_a_project_without_applications_has_none(tmp_path: Path) -> None:
    found = project(tmp_path, "")
    assert (found.apps, found.apps_provenance) == ((), {})
    assert "apps" not in found.manifest(BUNDLE).to_dict()


def test_each_value_names_its_source(tmp_path: Path) -> None:
    sources = project(tmp_path, app_table('links = ["svm"]')).apps_provenance["vision"]
    assert (sources["links"], sources["default_output"], sources["policy"]) == ("clip.toml", "clip.toml", "default")


def test_the_manifest_names_the_applications(tmp_path: Path) -> None:
    manifest = project(tmp_path, app_table("")).manifest(BUNDLE)
    assert manifest.apps == ("vision",)
    assert Manifest.from_dict(manifest.to_dict()) == manifest


REFUSED = {
    'links = ["svn"]': "project 'digits' has no function 'svn'; did you mean 'svm'",
    'links = ["digits/svn@2"]': "project 'digits' has no function 'svn'; did you mean 'svm'",
    'links = ["zzz"]': "project 'digits' has no function 'zzz'; it has svm, forest, choose",
    'links = [{ function = "svn" }]': "did you mean 'svm'",
    "links = [7]": "7 is not a link",
    "links = [{ function = 7 }]": "function = 7 is not allowed",
    'links = "svm"': "must be a list",
    'links = ["svm", "svm"]': "digits/svm is linked twice",
    'links = ["svm@0"]': "write \"project/function\"",
    'links = [{ function = "svm", wieght = 1 }]': "unknown key 'wieght'; did you mean 'weight'",
    'links = [{ function = "svm", weight = -1 }]': "weight = -1.0 is not allowed",
    'links = [{ function = "svm", weight = 0.5 }, { function = "forest", weight = 0.6 }]': "sum to 1.1",
    'links = [{ function = "svm", weight = 1 }, "forest"]': "digits/forest has no weight",
    'policy = "exp33"': "did you mean 'exp3'",
    'policy = "digits/chose"': "has no function 'chose'; did you mean 'choose'",
    'latency_slo = 1': "unknown key 'latency_slo'; did you mean 'latency_slo_s'",
    "latency_slo_s = 0": "latency_slo_s = 0.0 is not allowed",
    'loss = "zero-one"': "loss = 'zero-one' is not allowed",
    "policy_options = 3": "must be a table",
    "public = 1": "public = 1 is not allowed",
    "seed = -1": "seed = -1 is not allowed",
}  # fmt: skip


@pytest.mark.parametrize("lines", REFUSED)
def test_what_an_application_cannot_say_is_refused_by_table_and_key(tmp_path: Path, lines: str) -> None:
    with pytest.raises(SpecError) as refused:
        project(tmp_path, app_table(lines))
    assert REFUSED[lines] in str(refused.value)
    assert str(refused.value).startswith("clip.toml [apps.vision]")


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[apps]\nvision = 3\n", "apps.vision must be a table: [apps.vision]"),
        ("apps = 3\n", "apps must be tables: [apps.NAME]"),
        ('[apps.vision]\ndefault_output = 1\n', "input_type is missing"),
        ('[apps.vision]\ninput_type = "doubles"\n', "default_output is missing"),
        ('[apps.digits]\ninput_type = "doubles"\ndefault_output = 1\n', "the project has it"),
        ('[apps.metrics]\ninput_type = "doubles"\ndefault_output = 1\n', "/metrics is a route of the platform"),
        ('[apps."a:b"]\ninput_type = "doubles"\ndefault_output = 1\n', "application name 'a:b' is not allowed"),
        ('[app.vision]\ninput_type = "doubles"\n', "unknown key 'app'; did you mean 'apps'"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path: Path, toml: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        project(tmp_path, toml)
    assert words in str(refused.value)
