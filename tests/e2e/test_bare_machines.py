"""Machines without what others have: space on the disk, a home directory, a locale with more than ASCII."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import CLIP, PlatformProcess

APP = '''
import clipper


@clipper.function()
def echo(text: str) -> str:
    """Gives it back."""
    print(text)
    return text


@clipper.function()
def fail(text: str) -> str:
    raise ValueError(text)
'''
TEXT = "žluť ✓ 🎉"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # 0: or Python takes UTF-8 for C


def unshare(*flags: str) -> list[str]:
    """The command that runs another with namespaces of its own."""
    command = ["unshare", *flags]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{' '.join(command)} is refused here")
    return command


@pytest.mark.parametrize("kib", [4, 12, 64, 256, 1000], ids=lambda kib: f"{kib}-KiB")
def test_a_disk_that_is_full_at_the_start_is_named_without_a_traceback(tmp_path: Path, kib: int) -> None:
    """A disk of its own, which ends with the namespace. The sizes end at different steps of the start."""
    script = f'mount -t tmpfs -o size={kib}k none "$1" && exec "$2" up --home "$1/home" --port 0'
    done = subprocess.run(
        [*unshare("-rm"), "sh", "-c", script, "sh", str(tmp_path), CLIP],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert str(tmp_path / "home") in done.stderr
    assert "ree some space" in done.stderr or "its free space" in done.stderr


@pytest.fixture(scope="module")
def project(deploy_once: Deploy) -> str:
    return deploy_once(APP)


@pytest.mark.parametrize("user", ["known", "unknown"])
@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, ASCII], ids=["C", "ASCII"])
def test_without_a_home_directory_the_address_is_enough(
    platform: PlatformProcess, project: str, tmp_path: Path, user: str, locale: dict[str, str]
) -> None:
    # Without HOME, a user's directory is the one of the user database, which a container's user often is not in.
    prefix = unshare("--user", "--map-user=12345") if user == "unknown" else []
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "CLIP_HOME")}
    env = {**kept, **locale, "CLIP_URL": platform.url, "CLIP_API_KEY": platform.api_key}

    def clip(*args: str) -> tuple[int, str, str]:
        command = [*prefix, CLIP, *args]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback (most recent" not in out + err
        return done.returncode, out, err

    text = json.dumps({"text": TEXT})
    code, out, err = clip("invoke", f"{project}/echo", "--json-input", text)
    assert (code, json.loads(out)) == (0, TEXT), err
    code, _, err = clip("invoke", f"{project}/fail", "--json-input", text)
    assert code == 1
    assert "ValueError" in err
    for command in (["status", project], ["logs", f"{project}/echo"]):
        code, out, err = clip(*command)
        assert code == 0, (command, err)
        assert out
