from __future__ import annotations

from pathlib import Path

import pytest

from clipper.contract.manifest import Manifest
from clipper.contract.spec import SpecError
from clipper.project import load_project

APP = """\
import clipper


@clipper.function(max_batch_size=8, timeout_s=30, min_replicas=2)
class Classify:
    def __call__(self, pixels): ...


@clipper.function()
def shout(text: str): ...


def plain(x): ...
"""


def write(directory: Path, toml: str, app: str | None = APP, **files: str) -> Path:
    (directory / "clip.toml").write_text(toml, encoding="utf-8")
    if app is not None:
        (directory / "app.py").write_text(app, encoding="utf-8")
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return directory


def test_decorated_functions_are_found_with_their_options(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, 'name = "digits"'))
    assert project.name == "digits"
    assert [(f.name, f.entrypoint) for f in project.functions] == [("Classify", "app:Classify"), ("shout", "app:shout")]
    classify = project.functions[0]
    assert (classify.max_batch_size, classify.timeout_s, classify.autoscaling.min_replicas) == (8, 30.0, 2)


def test_the_file_wins_over_the_decorator_key_by_key(tmp_path: Path) -> None:
    toml = 'name = "digits"\n[functions.Classify]\ntimeout_s = 5\nautoscaling = {max_replicas = 3}\n'
    classify = load_project(write(tmp_path, toml)).functions[0]
    assert (classify.max_batch_size, classify.timeout_s) == (8, 5.0)
    assert (classify.autoscaling.min_replicas, classify.autoscaling.max_replicas) == (2, 3)


def test_each_value_is_remembered_with_its_origin(tmp_path: Path) -> None:
    toml = 'name = "d"\n[functions.Classify]\ntimeout_s = 5\nautoscaling = "autoscaling.toml"\n'
    project = load_project(write(tmp_path, toml, autoscaling__toml="max_replicas = 3\n"))
    origin = project.provenance["Classify"]
    assert origin["timeout_s"] == "clip.toml"
    assert origin["max_batch_size"] == "decorator (app.py:4)"
    assert origin["min_replicas"] == "decorator (app.py:4)"
    assert origin["max_replicas"] == "autoscaling.toml"
    assert origin["autoscaling"] == "autoscaling.toml, decorator (app.py:4)"
    assert origin["latency_slo_s"] == origin["buffer_replicas"] == "default"
    assert (origin["name"], origin["entrypoint"]) == ("clip.toml", "decorator (app.py:4)")
    assert project.provenance["shout"]["entrypoint"] == "decorator (app.py:9)"


def test_every_key_has_an_origin(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, 'name = "d"'))
    for spec in project.functions:
        table = spec.to_dict()
        assert set(project.provenance[spec.name]) == set(table) | set(table["autoscaling"]) | {"schedule"}


def test_a_table_can_give_decorated_code_another_name(tmp_path: Path) -> None:
    toml = 'name = "d"\n[functions.classify]\nentrypoint = "app:Classify"\n'
    project = load_project(write(tmp_path, toml))
    assert [f.name for f in project.functions] == ["classify", "shout"]
    assert project.functions[0].max_batch_size == 8


def test_one_class_can_be_two_functions(tmp_path: Path) -> None:
    toml = (
        'name = "d"\n[functions.fast]\nentrypoint = "app:Classify"\nmax_batch_size = 64\n'
        '[functions.slow]\nentrypoint = "app:Classify"\n'
    )
    functions = load_project(write(tmp_path, toml)).functions
    assert [(f.name, f.max_batch_size) for f in functions] == [("fast", 64), ("slow", 8), ("shout", 1)]


def test_undecorated_code_is_named_by_an_entrypoint(tmp_path: Path) -> None:
    toml = 'name = "d"\n[functions.plain]\nentrypoint = "app:plain"\ntimeout_s = 3\n'
    plain = load_project(write(tmp_path, toml)).functions[0]
    assert (plain.name, plain.timeout_s) == ("plain", 3.0)


def test_a_module_that_an_entrypoint_names_is_searched_too(tmp_path: Path) -> None:
    toml = 'name = "d"\n[functions.a]\nentrypoint = "models:A"\n'
    models = "import clipper\nclass A: ...\n@clipper.function()\ndef b(): ...\n"
    project = load_project(write(tmp_path, toml, app=None, models__py=models))
    assert [f.entrypoint for f in project.functions] == ["models:A", "models:b"]


def test_the_manifest_holds_every_key_and_is_accepted_by_the_platform(tmp_path: Path) -> None:
    toml = 'name = "d"\n[environment]\npython = "3.11"\nrequirements = ["numpy>=2"]\nexclude = ["torch"]\n'
    digest = "sha256:" + "0" * 64
    manifest = load_project(write(tmp_path, toml)).manifest(digest)
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert manifest.environment.requirements == ("numpy>=2",)
    assert manifest.bundle == digest


def test_the_number_of_versions_to_keep_reaches_the_manifest_and_is_left_out_where_it_is_the_default(
    tmp_path: Path,
) -> None:
    digest = "sha256:" + "0" * 64
    project = load_project(write(tmp_path, 'name = "d"\nkeep_versions = 5\n'))
    assert (project.keep_versions, project.keep_versions_provenance) == (5, "clip.toml")
    assert project.manifest(digest).to_dict()["keep_versions"] == 5
    project = load_project(write(tmp_path, 'name = "d"\n'))
    assert (project.keep_versions, project.keep_versions_provenance) == (20, "default")
    assert "keep_versions" not in project.manifest(digest).to_dict()


def test_a_digest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="bundle"):
        load_project(write(tmp_path, 'name = "d"')).manifest("abc")


def test_a_requirements_file_is_read_as_pip_does(tmp_path: Path) -> None:
    text = (
        "\ufeff# models\nscikit-learn>=1.5  # the model\n\nnumpy \\\n  >=2\n"
        "pkg @ https://x/y-1-py3-none-any.whl#sha256=ab\n   # end\n"
    )
    toml = 'name = "d"\n[environment]\nrequirements = "requirements.txt"\n'
    project = load_project(write(tmp_path, toml, requirements__txt=text))
    assert project.environment.requirements == (
        "scikit-learn>=1.5", "numpy   >=2", "pkg @ https://x/y-1-py3-none-any.whl#sha256=ab",
    )  # fmt: skip


def refusal(directory: Path, toml: str, app: str | None = APP, **files: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_project(write(directory, toml, app, **files))
    return str(caught.value)


FUNCTION = 'name = "d"\n[functions.shout]\n'


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", 'clip.toml: name is missing: write name = "'),
        ("name = 5", "clip.toml: project name 5 is not allowed"),
        ('name = "a/b"', "project name 'a/b' is not allowed"),
        ("name = \n", "clip.toml: not valid TOML: Invalid value (at line 1, column 8)"),
        ('name = "d"\nname = "e"\n', "(at line 2, column 11)"),
        ('nam = "d"', "clip.toml: unknown key 'nam'; did you mean 'name'?"),
        ('name = "d"\n[function.x]', "unknown key 'function'; did you mean 'functions'?"),
        ('name = "d"\nkeep_version = 5', "unknown key 'keep_version'; did you mean 'keep_versions'?"),
        ('name = "d"\nkeep_versions = 0', "keep_versions = 0 is not allowed: it must be a whole number at least 1"),
        ('name = "d"\nkeep_versions = "all"', "keep_versions = 'all' is not allowed"),
        ('name = "d"\nfunctions = 5', "functions must be tables"),
        ('name = "d"\nfunctions.x = 5', "functions.x must be a table"),
        ('name = "d"\nenvironment = 5', "environment must be a table"),
        ('name = "d"\n[environment]\nrequirement = []', "did you mean 'requirements'?"),
        ('name = "d"\n[environment]\nrequirements = [5]', "must be a list of strings"),
        ('name = "d"\n[environment]\nrequirements = "reqs.txt"', "the project has no such file"),
        ('name = "d"\n[environment]\nrequirements = "../reqs.txt"', "lies outside the project"),
        ('name = "d"\n[environment]\npython = 3.11', "write a version as a string"),
        ('name = "d"\n[functions."a b"]', "function name 'a b' is not allowed"),
        (FUNCTION + "latency_slo = 5", "[functions.shout]: unknown key 'latency_slo'; did you mean 'latency_slo_s'?"),
        (FUNCTION + 'entrypont = "app:x"', "did you mean 'entrypoint'?"),
        (FUNCTION + 'timeout_s = "5"', "timeout_s = '5' is not allowed: it must be a number above 0"),
        (FUNCTION + "timeout_s = inf", "timeout_s = inf is not allowed"),
        (FUNCTION + "min_replicas = 9", "min_replicas = 9 is above max_replicas = 8"),
        (FUNCTION + "min_replicas = 1\nautoscaling = {min_replicas = 2}", "both here and in autoscaling"),
        (FUNCTION + 'name = "other"', "contradicts the table's own name"),
        (FUNCTION + "default_output = 2024-01-01", "default_output is not allowed"),
        (FUNCTION + 'autoscaling = "none.toml"', "the project has no such file"),
        (FUNCTION + 'autoscaling = "/etc/passwd"', "lies outside the project"),
        (FUNCTION + "autoscaling = 5", "autoscaling = 5 is not allowed"),
        (FUNCTION + "batch_wait_timeout_s = 0.1", "batch_wait_timeout_s needs max_batch_size above 1"),
        (FUNCTION + 'entrypoint = "app"', 'write "module:Name"'),
        (FUNCTION + 'entrypoint = "app:Shout"', "app.py has no 'Shout'; did you mean 'shout'?"),
        (FUNCTION + 'entrypoint = "ap:shout"', "the module 'ap' is not in the project; did you mean 'app'?"),
        (FUNCTION + 'entrypoint = "app:plain"', "the name 'shout' is taken by clip.toml [functions.shout]"),
        ('name = "d"\n[functions.classify]', "no decorated function has the name 'classify'; add entrypoint = "),
        ('name = "d"\n[functions.classify]', '"app:Classify", or rename the table to [functions.Classify]'),
        ('name = "d"\n[functions.zzz]', 'add entrypoint = "app:Name"'),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_refused_with_the_fix(tmp_path: Path, toml: str, message: str) -> None:
    assert message in refusal(tmp_path, toml)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("max_replica = 3", "autoscaling.toml: unknown key 'max_replica'; did you mean 'max_replicas'?"),
        ("min_replicas = 5\nmax_replicas = 2", "autoscaling.toml: min_replicas = 5 is above"),
        ("x =", "autoscaling.toml: not valid TOML"),
        ('[[schedule]]\ncron = "* *"\nduration_s = 5\nmin_replicas = 1', "must have five fields"),
    ],
)
def test_a_mistake_in_a_policy_file_names_that_file(tmp_path: Path, policy: str, message: str) -> None:
    assert message in refusal(tmp_path, FUNCTION + 'autoscaling = "autoscaling.toml"', autoscaling__toml=policy)


def test_a_contradiction_between_file_and_decorator_is_refused(tmp_path: Path) -> None:
    toml = 'name = "d"\n[functions.Classify]\nmax_replicas = 1\n'
    assert "[functions.Classify]: min_replicas = 2 is above max_replicas = 1" in refusal(tmp_path, toml)


def test_a_contradiction_in_a_decorator_names_its_line(tmp_path: Path) -> None:
    app = "import clipper\n@clipper.function(min_replicas=9)\ndef f(): ...\n"
    assert refusal(tmp_path, 'name = "d"', app).startswith("decorator (app.py:2): min_replicas = 9 is above")


def test_two_decorated_functions_of_one_name_are_refused(tmp_path: Path) -> None:
    app = "import clipper\n@clipper.function()\ndef f(): ...\n@clipper.function(name='f')\ndef g(): ...\n"
    assert "the name 'f' is taken by app.py:2; give one of them name=" in refusal(tmp_path, 'name = "d"', app)


@pytest.mark.parametrize("app", [None, "x = 1\n"])
def test_a_project_without_functions_says_how_to_make_one(tmp_path: Path, app: str | None) -> None:
    assert "decorate one in app.py with @clipper.function()" in refusal(tmp_path, 'name = "d"', app)


def test_a_directory_without_the_file_suggests_init(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no clip\.toml in .*; `clip init` makes a project"):
        load_project(tmp_path)
    with pytest.raises(SpecError, match="is not a directory"):
        load_project(tmp_path / "nowhere")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(SpecError, match="not UTF-8 text"):
        load_project(tmp_path)


def test_deeply_nested_toml_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in refusal(tmp_path, "name = " + "[" * 50_000)


def test_requirements_and_constraints_may_be_files_and_say_so(tmp_path: Path) -> None:
    toml = 'name = "d"\n[environment]\nrequirements = "r.txt"\nconstraints = "c.txt"\n'
    project = load_project(write(tmp_path, toml, r__txt="a\n-c more.txt\n", c__txt="a<2\n", more__txt="b<3\n"))
    assert project.environment.requirements == ("a",)
    assert project.environment.constraints == ("b<3", "a<2")
    assert project.environment_provenance["requirements"] == "r.txt"
    assert project.environment_provenance["constraints"] == "c.txt"


def test_a_requirement_that_pip_refuses_is_refused_where_it_stands(tmp_path: Path) -> None:
    assert "'tinypkg 2' is not allowed" in refusal(tmp_path, 'name = "d"\n[environment]\nrequirements = ["tinypkg 2"]')
