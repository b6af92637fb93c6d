"""User code of one project against everything else, as its users run it: as root, as a normal user, in each mode."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.confined_platforms import KINDS, KINDS_OF_USERS, confined_platform
from tests.support.platform import PlatformProcess, eventually, write_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the isolation is Linux'")

APP = '''
import clipper
from helper import VALUE


@clipper.function()
def attack(code: str) -> str:
    """What the code leaves as `result`, or its exception."""
    names = {}
    exec(code, names)
    return str(names.get("result"))


@clipper.function(snapshot=True)
def forked(code: str) -> str:
    return attack.local(code)


@clipper.function()
def value() -> int:
    return VALUE
'''
ENTRIES = ("evil/attack", "evil/forked", "warm/attack")


@pytest.fixture(scope="module", params=(*KINDS, *KINDS_OF_USERS))
def platform(request: pytest.FixtureRequest) -> Iterator[PlatformProcess]:
    """Projects on one platform: `evil`, `good`, and `warm`, which is `evil` in a forked process."""
    with confined_platform(request.param) as started:
        place = started.home.parent
        for name, toml in (("evil", ""), ("good", ""), ("warm", "[environment]\nwarm_pool_size = 1\n")):
            text = f'name = "{name}"\n{toml}'
            started.deploy(write_project(place / name, APP, text, helper__py=f"VALUE = {len(name)}\n"))
        eventually(lambda: is_forked(started, "warm/attack"), within_s=60, every_s=0.5)
        yield started


def is_forked(platform: PlatformProcess, entry: str) -> bool:
    """Whether the replica came from a zygote; if not, the next one may."""
    if "--control" in run(platform, entry, "import os; result = open(f'/proc/{os.getppid()}/cmdline').read()"):
        return True
    platform.clip("restart", entry)
    return False


def run(platform: PlatformProcess, entry: str, code: str) -> Any:
    """The result, or the error's message."""
    answer = platform.post(f"/fn/{entry}", {"code": code})
    return answer.json() if answer.is_success else answer.json()["error"]["message"]


def pid_of(platform: PlatformProcess, path: str) -> int:
    return int(eventually(lambda: platform.status(path)["replicas"])[0]["pid"])


WRITES = {
    "a file of the version": "open('helper.py', 'w').write('VALUE = 666')",
    "a file of the version by its path": "import helper; open(helper.__file__, 'a').write('VALUE = 666')",
    "a new file of the version": "open('queue.py', 'w')",
    "bytecode of the version": "import os; os.makedirs('__pycache__')",
    "a link to a file of the version": (
        "import os; os.link('helper.py', os.environ['TMPDIR'] + '/h'); "
        "open(os.environ['TMPDIR'] + '/h', 'w').write('VALUE = 666')"
    ),
    "a symbolic link to a file of the version": (
        "import os; link = os.environ['TMPDIR'] + '/s'; "
        "os.path.lexists(link) or os.symlink(os.path.abspath('helper.py'), link); open(link, 'w').write('VALUE = 666')"
    ),
    "a file that a child process writes": (
        "import subprocess; subprocess.run('echo VALUE = 666 > helper.py', shell=True, check=True)"
    ),
    "a file that a thread writes": (
        "from concurrent.futures import ThreadPoolExecutor as T; "
        "T(1).submit(lambda: open('helper.py', 'w').write('VALUE = 666')).result()"
    ),
    "site-packages": "import msgspec; open(msgspec.__file__, 'a').write('raise SystemExit')",
    "a new module in site-packages": (
        "import msgspec, os; open(os.path.join(os.path.dirname(msgspec.__file__), '..', 'evil.pth'), 'w')"
    ),
    "the staged runtime": "import clipper_runtime; open(clipper_runtime.__file__, 'a').write('raise SystemExit')",
    "the interpreter": "import json; open(json.__file__, 'a').write('')",
    "the platform's code": "open(PLATFORM, 'a').write('')",
    "the directory of the version": "import os; os.rename('helper.py', 'other.py')",
}
if os.geteuid() == 0:
    WRITES["the kernel's settings"] = "open('/proc/sys/kernel/core_pattern', 'a').write('')"


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("code", WRITES.values(), ids=[name.replace(" ", "-") for name in WRITES])
def test_what_others_run_cannot_be_written(platform: PlatformProcess, entry: str, code: str) -> None:
    import clipper_platform.errors

    told = run(platform, entry, code.replace("PLATFORM", repr(clipper_platform.errors.__file__)))
    refusals = (
        "Read-only",
        "ermission denied",
        "cross-device",
        "non-zero exit status",
        "No such file",
        "not permitted",
    )
    assert any(word in told for word in refusals), told
    project = entry.partition("/")[0]
    assert platform.post(f"/fn/{project}/value", {}).json() == len(project)


def test_the_refusal_names_where_to_write(platform: PlatformProcess) -> None:
    told = run(platform, "evil/attack", "open('helper.py', 'w')")
    assert "$TMPDIR" in told


def test_modes_of_files_cannot_be_changed(platform: PlatformProcess) -> None:
    run(platform, "evil/attack", "import os; os.chmod('helper.py', 0o777); os.chmod('.', 0o777)")
    tree = next((platform.home / "bundles" / "trees").glob("?" * 64))
    told = run(platform, "evil/attack", "open('helper.py', 'w').write('VALUE = 666')")
    assert "$TMPDIR" in told
    assert "666" not in (tree / "helper.py").read_text()


READS = {
    "the key": "result = open(HOME + '/api_key').read()",
    "the database": "result = open(HOME + '/clipper.db', 'rb').read()",
    "the log": (
        "import os; logs = [os.path.join(d, f) for d, _, fs in os.walk(HOME + '/logs') for f in fs]; "
        "result = open(logs[0]).read()"
    ),
    "another bundle": "import glob; result = open(glob.glob(HOME + '/bundles/*.tar.gz')[0], 'rb').read()",
    "another tree": (
        "import glob, os; "
        "result = [open(p).read() for p in glob.glob(HOME + '/bundles/trees/*/helper.py') if os.getcwd() not in p][0]"
    ),
    "a neighbour by ..": "import os; result = [n for n in os.listdir('..') if n not in os.getcwd()][0]",
    "the key by a symbolic link": (
        "import os; link = os.environ['TMPDIR'] + '/key'; "
        "os.path.lexists(link) or os.symlink(HOME + '/api_key', link); result = open(link).read()"
    ),
    "the key by a child process": (
        "import subprocess; result = subprocess.run(['cat', HOME + '/api_key'], check=True, capture_output=True).stdout"
    ),
    "environment variables of another replica": "result = open(f'/proc/{GOOD}/environ').read()",
    "memory of another replica": "result = open(f'/proc/{GOOD}/mem', 'rb')",
    "the directory of another replica": "import os; result = os.listdir(f'/proc/{GOOD}/cwd')",
    "environment variables of the platform": "result = open(f'/proc/{OWNER}/environ').read()",
    "the files through the platform": "import os; result = open(f'/proc/{OWNER}/root{HOME}/api_key').read()",
    "a descriptor of the platform": "import os; result = os.readlink(f'/proc/{OWNER}/fd/1')",
    "the files without its mounts": (
        "import subprocess; command = f'umount -l {HOME}; cat {HOME}/api_key'; "
        "result = subprocess.run(['unshare', '-Urm', 'sh', '-c', command], check=True, capture_output=True).stdout"
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("code", READS.values(), ids=[name.replace(" ", "-") for name in READS])
def test_what_belongs_to_others_cannot_be_read(platform: PlatformProcess, entry: str, code: str) -> None:
    names = f"HOME, GOOD, OWNER = {str(platform.home)!r}, {pid_of(platform, 'good/value')}, {platform.pid}\n"
    told = run(platform, entry, names + code)
    refusals = ("No such file", "ermission", "out of range", "non-zero exit status", "not permitted")
    assert any(word in told for word in refusals), told


CONNECTS = {
    "an abstract socket": "chr(0) + NAME",
    "a socket in the home": "HOME + '/' + NAME",
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("address", CONNECTS.values(), ids=[name.replace(" ", "-") for name in CONNECTS])
def test_sockets_of_others_are_out_of_reach(platform: PlatformProcess, entry: str, address: str) -> None:
    """As an abstract one of another process of the machine, or one that lies with the platform's files."""
    if platform.api("GET", "/info").json()["isolation"]["fix"].startswith("a kernel"):
        pytest.skip("the kernel's Landlock has no scopes")
    if platform.env["CLIP_ISOLATION"] == "landlock" and "HOME" in address:
        pytest.skip("Landlock's rules for files do not count for connecting to a socket by its path")
    if platform.env["CLIP_ISOLATION"] == "none":
        pytest.skip("a user may connect to what its owner lets all users connect to")
    names = {"HOME": str(platform.home), "NAME": f"clip-test-{os.getpid()}"}
    path = eval(address, dict(names))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        if not path.startswith("\0"):
            os.chmod(path, 0o777)
        listening.listen()
        try:
            told = run(
                platform,
                entry,
                f"HOME, NAME = {names['HOME']!r}, {names['NAME']!r}\nimport socket\n"
                f"result = socket.socket(socket.AF_UNIX).connect({address})",
            )
        finally:
            if not path.startswith("\0"):
                os.unlink(path)
    assert any(word in told for word in ("not permitted", "No such file", "ermission")), told


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_temporary_files_of_another_replica_are_not_seen(platform: PlatformProcess, entry: str) -> None:
    made = "import os; path = os.environ['TMPDIR'] + '/mine'; open(path, 'w').write('x'); result = path"
    path = platform.post("/fn/good/attack", {"code": made}).json()
    assert "No such file" in run(platform, entry, f"result = open({path!r}).read()") or "ermission" in run(
        platform, entry, f"result = open({path!r}).read()"
    )


def test_two_projects_of_one_bundle_share_nothing(platform: PlatformProcess) -> None:
    """As a closure that is deployed under two names."""
    place = platform.home.parent
    for name in ("twin-a", "twin-b"):
        platform.deploy(write_project(place / "twins", APP, f'name = "{name}"\n', helper__py="VALUE = 5\n"))
    code = "import os; open(os.environ['TMPDIR'] + '/x', 'w').write('1'); result = os.environ['TMPDIR']"
    for entry in ("attack", "forked"):
        path = platform.post(f"/fn/twin-a/{entry}", {"code": code}).json()
        told = run(platform, f"twin-b/{entry}", f"import os; result = os.listdir({path!r})")
        assert "No such file" in told or "ermission" in told
    for write in ("open('helper.py', 'w')", "open('new.py', 'w')"):
        assert "$TMPDIR" in run(platform, "twin-a/attack", write)


def test_a_project_that_is_deleted_and_deployed_anew_is_what_its_files_say(platform: PlatformProcess) -> None:
    place = platform.home.parent
    project = write_project(place / "again", APP, 'name = "again"\n', helper__py="VALUE = 7\n")
    platform.deploy(project)
    for code in (WRITES["a file of the version"], WRITES["a new file of the version"], WRITES["site-packages"]):
        run(platform, "again/attack", code)
    platform.clip("delete", "again", "--yes")
    platform.deploy(project)
    assert platform.post("/fn/again/value", {}).json() == 7


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("signal", [0, 9, 19])
def test_neither_a_neighbour_nor_the_platform_can_be_signalled(
    platform: PlatformProcess, entry: str, signal: int
) -> None:
    if platform.api("GET", "/info").json()["isolation"]["fix"].startswith("a kernel"):
        pytest.skip("the kernel's Landlock has no scopes")
    for pid in (pid_of(platform, "good/value"), platform.pid, os.getpid()):
        assert "not permitted" in run(platform, entry, f"import os; os.kill({pid}, {signal})")
    trace = "import ctypes; result = ctypes.CDLL(None).ptrace(16, {pid}, 0, 0)"
    assert run(platform, entry, trace.format(pid=pid_of(platform, "good/value"))) == "-1"
    assert platform.post("/fn/good/value", {}).json() == len("good")


def test_what_user_code_needs_works(platform: PlatformProcess) -> None:
    works = {
        "read a file of the version": "result = 'VALUE' in open('helper.py').read()",
        "write a temporary file": "import tempfile; f = tempfile.NamedTemporaryFile(); f.write(b'x'); result = True",
        "rename between directories": (
            "import os, tempfile; a, b = tempfile.mkdtemp(), tempfile.mkdtemp(); open(a + '/x', 'w'); "
            "os.rename(a + '/x', b + '/x'); result = True"
        ),
        **{
            f"use multiprocessing by {method}": (
                f"import multiprocessing as m; x = m.get_context({method!r}).Manager(); "
                "result = list(x.list([1])) == [1]"
            )
            for method in ("fork", "spawn", "forkserver")
        },
        "share memory": (
            "from multiprocessing.shared_memory import SharedMemory as S; s = S(create=True, size=9); s.close(); "
            "s.unlink(); result = True"
        ),
        "signal a child": (
            "import subprocess; p = subprocess.Popen(['sleep', '9']); p.kill(); result = p.wait() == -9"
        ),
        "open devices": "open('/dev/null', 'w').write('x'); result = open('/dev/urandom', 'rb').read(1) != b''",
    }
    if platform.env["CLIP_ISOLATION"] != "landlock":
        works["make a cache in the home"] = (
            "import os; p = os.path.expanduser('~/.cache/huggingface'); os.makedirs(p, exist_ok=True); "
            "open(p + '/model', 'w').write('kept'); result = True"
        )
    for what, code in works.items():
        for entry in ENTRIES:
            assert run(platform, entry, code) == "True", (what, entry)


def test_doctor_and_status_say_what_holds(platform: PlatformProcess) -> None:
    mode = platform.env["CLIP_ISOLATION"]
    word = {"landlock": "Landlock", "none": "a user for each project"}.get(mode, "mount namespace")
    checks = platform.clip("doctor", "--json", check=False).json()["checks"]
    assert word in next(check["detail"] for check in checks if check["name"] == "isolation")
    assert word in platform.clip("status", "evil").out


def test_without_isolation_doctor_warns_and_a_changed_version_is_unpacked_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with PlatformProcess(home, env={"CLIP_ISOLATION": "none"}) as platform:
        project = write_project(tmp_path / "evil", APP, 'name = "evil"\n', helper__py="VALUE = 1\n")
        platform.deploy(project)
        check = next(c for c in platform.clip("doctor", "--json").json()["checks"] if c["name"] == "isolation")
        assert check["result"] == "warn"
        assert check["fix"]
        code = (
            "import os; os.chmod('.', 0o755); os.chmod('helper.py', 0o644); open('helper.py', 'w').write('VALUE = 666')"
        )
        run(platform, "evil/attack", code)
        platform.clip("deploy", str(project), "--force")
        assert platform.post("/fn/evil/value", {}).json() == 1
        run(platform, "evil/attack", code)
        platform.stop()
        platform.start()
        assert eventually(lambda: platform.post("/fn/evil/value", {})).json() == 1


def test_without_isolation_a_changed_environment_is_refused_and_built_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write = "import msgspec; open(msgspec.__file__, 'a').write('raise SystemExit(3)')"
    with PlatformProcess(home, env={"CLIP_ISOLATION": "none", "UV_LINK_MODE": "copy"}) as platform:
        project = write_project(tmp_path / "evil", APP, 'name = "evil"\n', helper__py="VALUE = 1\n")
        platform.deploy(project)
        run(platform, "evil/attack", write)
        platform.clip("restart", "evil/value", check=False)
        refused = eventually(lambda: (log := platform.log()) and "msgspec/__init__.py' was changed" in log and log)
        assert "builds it anew" in refused
        platform.clip("deploy", str(project), "--force")
        assert platform.post("/fn/evil/value", {}).json() == 1
        run(platform, "evil/attack", write)
        platform.stop()
        platform.start()
        assert eventually(lambda: platform.post("/fn/evil/value", {}), within_s=30).json() == 1
