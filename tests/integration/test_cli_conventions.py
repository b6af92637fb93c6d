"""What holds for every command: JSON, exit codes, diagnostics on stderr, pipes, a platform that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_platform import FakePlatform, client_environment, fake_platform
from tests.support.terminal import COMMAND, clip, clip_process, environment

NOWHERE = {"CLIP_URL": "http://127.0.0.1:9", "CLIP_API_KEY": "clip_any", "CLIP_HOME": "/nonexistent/clip-home"}

REMOTE = [
    ["list"],
    ["status", "digits"],
    ["versions", "digits"],
    ["top", "--once"],
    ["logs", "digits/analyze"],
    ["invoke", "digits/analyze"],
    ["rollback", "digits"],
    ["delete", "digits", "--yes"],
    ["app", "create", "vision", "--input-type", "doubles", "--default-output", "0"],
    ["app", "set", "vision", "--seed", "1"],
    ["app", "link", "vision", "digits/analyze"],
    ["app", "unlink", "vision", "digits/analyze"],
    ["app", "list"],
    ["app", "status", "vision"],
    ["app", "explain", "vision"],
    ["app", "predict", "vision", "[1]"],
    ["app", "label", "vision", "7", "1"],
    ["app", "feedback", "vision"],
    ["app", "delete", "vision", "--yes"],
    ["key", "create", "ci"],
    ["key", "list"],
    ["key", "revoke", "k1"],
    ["secret", "set", "digits", "NAME", "value"],
    ["secret", "list", "digits"],
    ["secret", "delete", "digits", "NAME"],
]


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


@pytest.mark.parametrize("arguments", REMOTE, ids=" ".join)
def test_without_a_platform_every_command_says_how_to_start_one(arguments: list[str]) -> None:
    done = clip(*arguments, env=NOWHERE)
    assert (done.code, done.out) == (1, "")
    assert "No platform at http://127.0.0.1:9" in done.err
    assert "clip up" in done.err


@pytest.mark.parametrize("arguments", REMOTE, ids=" ".join)
def test_with_json_a_failure_is_one_document_on_stdout(arguments: list[str]) -> None:
    done = clip(*arguments, "--json", env=NOWHERE)
    assert done.code == 1
    assert json.loads(done.out)["error"]["code"] == "platform_unreachable"


def test_a_home_without_a_running_platform_says_how_to_start_one(tmp_path: Path) -> None:
    done = clip("list", env={"CLIP_HOME": str(tmp_path)})
    assert done.code == 1
    assert "clip up" in done.err


def test_an_address_that_is_none_is_a_failure_that_names_it() -> None:
    done = clip("list", env=NOWHERE | {"CLIP_URL": "8700"})
    assert done.code == 1
    assert "'8700'" in done.err


def test_a_refused_key_says_where_keys_come_from(env: dict[str, str]) -> None:
    done = clip("list", env=env | {"CLIP_API_KEY": "clip_wrong"})
    assert done.code == 1
    assert "CLIP_API_KEY" in done.err
    assert "clip_wrong" not in done.err


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["list", "--nonsense"], ["status"], ["logs", "digits/analyze", "--tail", "many"]]
)
def test_wrong_usage_is_exit_code_two(arguments: list[str], env: dict[str, str]) -> None:
    done = clip(*arguments, env=env)
    assert (done.code, done.out) == (2, "")
    assert "--help" in done.err
    error = json.loads(clip(*arguments, "--json", env=env).out)["error"]
    assert error["code"] == "usage"


def test_json_after_the_double_dash_is_an_argument(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    done = clip("secret", "set", "digits", "NAME", "--", "--json", env=env)
    assert done.code == 0
    assert done.out.startswith("✓ ")
    assert platform.secrets["digits"]["NAME"] == "--json"


@pytest.mark.parametrize(
    "command", ["init", "up", "deploy", "invoke", "list", "status", "versions", "top", "logs", "doctor"]
)
def test_every_command_has_help_and_json(command: str) -> None:
    done = clip(command, "--help", env={})
    assert done.code == 0
    assert "--json" in done.out


def test_help_groups_the_commands_with_a_line_each() -> None:
    out = clip("--help", env={}).out
    order = [out.index(word) for word in ("Build and call", "deploy", "Look", "status", "Change and manage", "secret")]
    assert order == sorted(order)


def test_the_version_is_printed() -> None:
    done = clip("--version", env={})
    assert (done.code, done.out.startswith("clip ")) == (0, True)


def test_a_reader_that_leaves_is_not_an_error_message(platform: FakePlatform, env: dict[str, str]) -> None:
    for n in range(2000):
        platform.add_project(f"project-{n:04}")
    process = subprocess.Popen(
        [*COMMAND, "list"], env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(30)
    assert errors == ""


def test_a_locale_without_the_marks_still_works(tmp_path: Path) -> None:
    done = clip_process(
        "init", str(tmp_path / "demo"), env={"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    )
    assert done.code == 0
    assert "Project demo" in done.out


def test_a_small_command_loads_neither_the_http_library_nor_the_display(
    platform: FakePlatform, env: dict[str, str], tmp_path: Path
) -> None:
    platform.add_project("digits", version=2, previous=1)
    code = (
        "import sys; from clipper.cli.main import main; assert main(['rollback', 'digits']) == 0; "
        "print([m for m in ('httpx', 'rich', 'msgspec', 'clipper.contract.spec') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **env}
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_loads_no_command(env: dict[str, str]) -> None:
    code = (
        "import sys; from clipper.cli.main import main; assert main(['--help']) == 0; "
        "print([m for m in ('clipper.cli.deploy', 'clipper.cli.manage', 'http.client', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "found"),
    [("clip status d", {"digits"}), ("clip status digits/", {"digits/analyze"}), ("clip logs ", {"digits/analyze"})],
)
def test_the_shell_completes_names_from_the_platform(
    words: str, found: set[str], platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("digits")
    asked = {"_CLIP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    assert set(clip_process(env=env | asked).out.splitlines()) == {f"plain,{name}" for name in found}


def test_the_shell_completes_commands() -> None:
    asked = {"_CLIP_COMPLETE": "bash_complete", "COMP_WORDS": "clip de", "COMP_CWORD": "1"}
    assert clip_process(env=asked).out.splitlines() == ["plain,deploy", "plain,dev", "plain,delete"]


def test_completion_can_be_shown_for_a_shell() -> None:
    command = f"{' '.join(COMMAND)} --show-completion; exit $?"  # `exit`: bash must not become the command
    done = subprocess.run(
        ["bash", "-c", command], env=environment({}), capture_output=True, text=True, timeout=60, check=True
    )
    assert "_CLIP_COMPLETE=bash_complete" in done.stdout


def test_completion_is_installed_below_the_home_directory(tmp_path: Path) -> None:
    command = f"{' '.join(COMMAND)} --install-completion; exit $?"
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment({"HOME": str(tmp_path)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"bash completion installed in {tmp_path}/.bash_completions/clip.sh" in done.stdout
    assert (tmp_path / ".bashrc").read_text() == "\nsource ~/.bash_completions/clip.sh\n"


def test_config_show_names_the_source_of_every_value_and_never_the_key(env: dict[str, str], tmp_path: Path) -> None:
    clip("init", str(tmp_path / "demo"), env={})
    done = clip("config", "show", str(tmp_path / "demo"), env=env)
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.strip()}
    assert rows["timeout_s"] == ["10", "clip.toml"]
    assert rows["keep_versions"] == ["20", "default"]
    assert rows["max_batch_size"][:2] == ["32", "decorator"]
    assert rows["max_retries"][-1] == "default"
    assert rows["graceful_shutdown_timeout_s"] == ["10", "timeout_s"]
    assert rows["autoscaling.max_replicas"] == ["4", "clip.toml"]
    assert rows["requirements"][-1] == "clip.toml"
    assert rows["python"] == ["not", "set", "default"]
    assert rows["warm_pool_size"] == ["not", "set", "default"]
    assert rows["api_key"] == ["found", "CLIP_API_KEY"]
    assert env["CLIP_API_KEY"] not in done.out


def test_config_show_with_json_and_outside_of_a_project(env: dict[str, str], tmp_path: Path) -> None:
    done = clip_process("config", "show", "--json", env=env, cwd=tmp_path)
    document = json.loads(done.out)
    assert document["project"] is None
    assert document["client"]["url"]["from"] == "CLIP_URL"
    assert env["CLIP_API_KEY"] not in done.out


def test_config_show_of_a_directory_without_a_project_fails(env: dict[str, str], tmp_path: Path) -> None:
    done = clip("config", "show", str(tmp_path), env=env)
    assert done.code == 1
    assert "clip init" in done.err
