"""A platform of root that gives each project a user: what the user is, may do and may not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.confined_platforms import KINDS_OF_USERS, confined_platform
from tests.support.platform import PlatformProcess, eventually, write_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the isolation is Linux'")

APP = '''
import clipper


@clipper.function()
def look(code: str) -> str:
    """What the code leaves as `result`, or its exception."""
    names = {}
    exec(code, names)
    return str(names.get("result"))


@clipper.function(snapshot=True)
def forked(code: str) -> str:
    return look.local(code)


@clipper.function(memory_bytes=1_000_000_000)
def bounded(code: str) -> str:
    return look.local(code)
'''
ENTRIES = ("one/look", "one/forked", "warm/look")


@pytest.fixture(scope="module", params=KINDS_OF_USERS)
def platform(request: pytest.FixtureRequest) -> Iterator[PlatformProcess]:
    with confined_platform(request.param) as started:
        place = started.home.parent
        for name, toml in (("one", ""), ("two", ""), ("warm", "[environment]\nwarm_pool_size = 1\n")):
            app = APP if name == "warm" else f"{APP}\n# {name}\n"
            started.deploy(write_project(place / name, app, f'name = "{name}"\n{toml}'))
        yield started


def run(platform: PlatformProcess, entry: str, code: str) -> Any:
    """The result, or the error's message."""
    answer = platform.post(f"/fn/{entry}", {"code": code})
    return answer.json() if answer.is_success else answer.json()["error"]["message"]


def uid_of(platform: PlatformProcess, entry: str) -> int:
    return int(run(platform, entry, "import os; result = os.getuid()"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_replica_has_no_right_but_its_users(platform: PlatformProcess, entry: str) -> None:
    uid = uid_of(platform, entry)
    assert 61184 <= uid <= 65519
    ids = run(platform, entry, "import os; result = {*os.getresuid(), *os.getresgid()}")
    assert ids == f"{{{uid}}}"
    status = run(platform, entry, "result = open('/proc/self/status').read()")
    for line in ("CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status
    assert "CapBnd:\t0000000000000000" in status
    bundle = "import os; result = os.stat('.').st_gid in os.getgroups() and 0 not in os.getgroups()"
    assert run(platform, entry, bundle) == "True"


def test_each_project_has_a_user_of_its_own_which_a_restart_keeps(platform: PlatformProcess) -> None:
    before = {name: uid_of(platform, f"{name}/look") for name in ("one", "two", "warm")}
    assert len(set(before.values())) == len(before)
    trees = {path.name: path.stat().st_ino for path in (platform.home / "bundles" / "trees").glob("?" * 64)}
    platform.stop()
    platform.start()
    assert {name: eventually(lambda name=name: uid_of(platform, f"{name}/look")) for name in before} == before
    assert {path.name: path.stat().st_ino for path in (platform.home / "bundles" / "trees").glob("?" * 64)} == trees


def test_what_libraries_ask_of_a_user_works(platform: PlatformProcess) -> None:
    works = {
        "its name": "import getpass; result = getpass.getuser() == os.environ['CLIP_PROJECT']",
        "a cache in its home": (
            "p = os.path.expanduser('~/.cache/huggingface'); os.makedirs(p, exist_ok=True); "
            "open(p + '/model', 'w').write('kept'); result = True"
        ),
        "its own processes": "result = open(f'/proc/{os.getpid()}/environ').read() != ''",
        "its own descriptors": "result = len(os.listdir('/proc/self/fd')) > 2",
        "its output by a path": "print('x', file=open('/dev/stderr', 'w')); result = True",
        "a shared semaphore": "import multiprocessing; result = multiprocessing.Lock().acquire()",
    }
    for what, code in works.items():
        for entry in ENTRIES:
            assert run(platform, entry, f"import os; {code}") == "True", (what, entry)


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_directories_of_others_cannot_be_read_by_whoever_knows_their_names(
    platform: PlatformProcess, entry: str
) -> None:
    tree = run(platform, "two/look", "import os; result = os.getcwd()")
    tmp = run(platform, "two/look", "import os; result = os.environ['TMPDIR']")
    for path in (tree, f"{tree}/app.py", tmp, platform.home / "users" / "two", platform.home / "logs"):
        told = run(
            platform,
            entry,
            f"import os; p = {str(path)!r}; result = os.path.isdir(p) and os.listdir(p) or open(p).read()",
        )
        assert "ermission" in told or "No such file" in told, (path, told)
    listed = run(platform, entry, f"import os; result = os.listdir({str(platform.home / 'users')!r})")
    assert "two" not in listed or "ermission" in listed


def test_it_dies_with_the_platform_and_is_bounded_as_declared(platform: PlatformProcess) -> None:
    signal = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); result = n.value"
    assert run(platform, "one/look", signal) == "9"
    limits = "import resource as r; result = (r.getrlimit(r.RLIMIT_DATA)[1], r.getrlimit(r.RLIMIT_CORE)[1])"
    assert run(platform, "one/bounded", limits) == "(1000000000, 0)"
    assert run(platform, "warm/bounded", limits) == "(1000000000, 0)"


def test_what_a_replica_leaves_behind_is_ended(platform: PlatformProcess) -> None:
    code = "import subprocess; result = subprocess.Popen(['sleep', '600'], start_new_session=True).pid"
    pid = int(run(platform, "two/look", code))
    platform.clip("restart", "two/look")
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_platform_that_cannot_give_users_says_why(tmp_path: Path) -> None:
    """pytest's directories are closed to other users."""
    if os.geteuid() != 0:
        pytest.skip("only root gives users")
    tmp_path.chmod(0o700)
    with PlatformProcess(tmp_path / "home", env={"CLIP_ISOLATION_UIDS": "70000..70099"}) as platform:
        detail = platform.api("GET", "/info").json()["isolation"]["detail"]
    assert "no users of their own" in detail
    assert "is closed to other users" in detail
