"""`[deploy]`: what it accepts, how it travels, and its reference."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from clipper.contract.deploys import DeploySpec
from clipper.contract.manifest import Manifest
from clipper.contract.spec import EnvironmentSpec, FunctionSpec, SpecError
from clipper.project import load_project
from tests.support.terminal import clip

REFERENCE = Path(__file__).resolve().parents[3] / "infra" / "docs" / "deploys.md"
APP = "import clipper\n@clipper.function()\ndef classify(n: int = 0) -> int:\n    return n\n"


def project(tmp_path: Path, toml: str) -> Any:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "clip.toml").write_text(f'name = "digits"\n{toml}')
    return load_project(tmp_path)


def test_without_the_table_a_deploy_is_rolling_and_keeps_the_version_before_for_a_minute(tmp_path: Path) -> None:
    deploy = project(tmp_path, "").deploy
    assert (deploy.strategy, deploy.keep_previous_s, deploy.smoke) == ("rolling", 60.0, {})


def test_the_table_reaches_the_manifest(tmp_path: Path) -> None:
    toml = '[deploy]\nstrategy = "canary"\nsteps = [5, 100]\nstep_s = 30\n[deploy.smoke]\nclassify = { n = 3 }\n'
    manifest = project(tmp_path, toml).manifest("sha256:" + "a" * 64)
    assert manifest.to_dict()["deploy"] == {
        "strategy": "canary",
        "steps": [5, 100],
        "step_s": 30.0,
        "smoke": {"classify": {"n": 3}},
    }
    assert Manifest.from_dict(manifest.to_dict()) == manifest


def test_a_manifest_without_the_table_is_read_and_written_as_before() -> None:
    manifest = Manifest(
        project="p",
        bundle="sha256:" + "a" * 64,
        environment=EnvironmentSpec(),
        functions=(FunctionSpec(name="f", entrypoint="app:f"),),
    )
    table = manifest.to_dict()
    assert "deploy" not in table
    assert Manifest.from_dict(table).deploy == DeploySpec()


def test_config_show_tells_each_value_and_where_it_came_from(tmp_path: Path) -> None:
    project(tmp_path, '[deploy]\nstrategy = "rolling"\nkeep_previous_s = 5\n')
    env = {"CLIP_HOME": str(tmp_path / "home")}
    shown = json.loads(clip("config", "show", str(tmp_path), "--json", env=env).out)["project"]["deploy"]
    assert shown["strategy"] == {"value": "rolling", "from": "clip.toml"}
    assert shown["keep_previous_s"] == {"value": 5.0, "from": "clip.toml"}
    assert shown["steps"] == {"value": [10, 50, 100], "from": "default"}
    plain = clip("config", "show", str(tmp_path), env=env).out
    assert re.search(r"steps +\[10, 50, 100\] +default", plain)


REFUSED = {
    'stategy = "rolling"': "did you mean 'strategy'?",
    'strategy = "blue"': "one of 'rolling', 'canary', 'recreate'",
    "steps = [10, 100]": 'steps needs strategy = "canary"',
    "max_p99_ratio = 3": 'max_p99_ratio needs strategy = "canary"',
    'strategy = "canary"\nsteps = [10, 50]': "end with 100",
    'strategy = "canary"\nsteps = [50, 10, 100]': "growing",
    'strategy = "canary"\nsteps = [10, 10, 100]': "growing",
    'strategy = "canary"\nsteps = [true, 100]': "whole percentages",
    'strategy = "canary"\nsteps = []': "end with 100",
    'strategy = "canary"\nstep_s = 0': "above 0",
    "keep_previous_s = -1": "at least 0",
    'strategy = "recreate"\nkeep_previous_s = 5': "no meaning",
    "smoke = 3": "table of functions",
    "[deploy.smoke]\nclasify = {}": "did you mean 'classify'?",
    "[deploy.smoke]\nclassify = 3": "arguments as a table",
    "[deploy.smoke]\nclassify = { n = nan }": "smoke.classify is not allowed: JSON has no nan",
}


@pytest.mark.parametrize("toml", REFUSED)
def test_what_cannot_be_meant_is_refused_with_the_fix(tmp_path: Path, toml: str) -> None:
    with pytest.raises(SpecError, match=re.escape(REFUSED[toml])) as caught:
        project(tmp_path, f"[deploy]\n{toml}\n")
    assert caught.value.where == "clip.toml [deploy]"


def test_the_table_itself_has_a_near_name_too(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'deploy'"):
        project(tmp_path, "[deploi]\n")


def test_the_reference_has_every_key_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", REFERENCE.read_text(), re.MULTILINE))
    assert list(rows) == [f.name for f in fields(DeploySpec)]
    for key, cell in rows.items():
        default = getattr(DeploySpec(), key)
        shown = list(default) if key == "steps" else default
        words = f'"{shown}"' if isinstance(shown, str) else f"{shown:g}" if isinstance(shown, float) else f"{shown}"
        assert cell.strip() == ("" if key == "smoke" else f"`{words}`"), key


def test_variables_of_the_project_are_part_of_the_version_and_shown(tmp_path: Path) -> None:
    manifest = project(tmp_path, '[env]\nMODE = "fast"\n').manifest("sha256:" + "a" * 64)
    assert manifest.env == {"MODE": "fast"}
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    env = {"CLIP_HOME": str(tmp_path / "home")}
    shown = json.loads(clip("config", "show", str(tmp_path), "--json", env=env).out)["project"]["env"]
    assert shown == {"MODE": {"value": "fast", "from": "clip.toml"}}
    assert re.search(r"MODE +\"?fast\"? +clip\.toml", clip("config", "show", str(tmp_path), env=env).out)


def test_a_variable_that_cannot_be_passed_on_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r'WORKERS = "4"'):
        project(tmp_path, "[env]\nWORKERS = 4\n")
