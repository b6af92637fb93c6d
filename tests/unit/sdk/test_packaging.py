from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from clipper import packaging
from clipper.contract.spec import SpecError
from clipper.packaging import Bundle, Limits, bundle_directory, bundle_files


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def paths(bundle: Bundle) -> list[str]:
    return [path for path, _ in bundle.files]


def unpack(bundle: Bundle) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle.data), mode="r:gz") as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def test_a_bundle_holds_the_files_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, **{"app.py": "x", "pkg/deep/data.txt": "y" * 5000, "empty": ""})
    bundle = bundle_directory(tmp_path)
    assert unpack(bundle) == {"app.py": b"x", "empty": b"", "pkg/deep/data.txt": b"y" * 5000}
    assert bundle.files == (("app.py", 1), ("empty", 0), ("pkg/deep/data.txt", 5000))
    assert bundle.uncompressed_bytes == 5001
    assert bundle.digest == "sha256:" + hashlib.sha256(bundle.data).hexdigest()


def test_metadata_is_reduced_to_the_executable_bit(tmp_path: Path) -> None:
    write(tmp_path, **{"run.sh": "x", "app.py": "y"})
    (tmp_path / "run.sh").chmod(0o700)
    (tmp_path / "app.py").chmod(0o604)
    with tarfile.open(fileobj=io.BytesIO(bundle_directory(tmp_path).data), mode="r:gz") as archive:
        facts = {m.name: (m.mode, m.uid, m.gid, m.uname, m.gname, m.mtime, m.type) for m in archive}
    assert facts == {
        "app.py": (0o644, 0, 0, "", "", 0, tarfile.REGTYPE),
        "run.sh": (0o755, 0, 0, "", "", 0, tarfile.REGTYPE),
    }


def test_the_compressed_header_says_nothing_about_machine_or_time(tmp_path: Path) -> None:
    data = bundle_directory(write(tmp_path, **{"app.py": "x"})).data
    assert data[:4] == b"\x1f\x8b\x08\x00"  # gzip, deflate, no name
    assert data[4:8] == b"\0\0\0\0"  # no time
    assert data[9] == 255  # unknown system
    assert gzip.decompress(data)


def test_another_process_makes_the_same_bundle(tmp_path: Path) -> None:
    write(tmp_path, **{"b/x.py": "x" * 10_000, "a.py": "y", "ü/é.txt": "z", "long" * 30 + "/" + "name" * 30: "w"})
    code = "import sys; from clipper.packaging import bundle_directory; print(bundle_directory(sys.argv[1]).digest)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert run.stdout.strip() == bundle_directory(tmp_path).digest


def test_contents_in_memory_make_the_same_bundle_as_files(tmp_path: Path) -> None:
    write(tmp_path, **{"b.py": "x", "a/c.py": "y"})
    assert bundle_files({"b.py": b"x", "a/c.py": b"y"}).digest == bundle_directory(tmp_path).digest


# What stays out


def test_what_never_runs_is_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "app.py": "", ".git/config": "", "__pycache__/app.pyc": "", "pkg/__pycache__/x.pyc": "", "old.pyo": "",
            ".venv/bin/python": "", "venv/x": "", "node_modules/x": "", ".clip/api_key": "", ".DS_Store": "",
            ".mypy_cache/x": "", "pkg/.DS_Store": "", "x.egg-info/y": "", ".gitignore": "", ".clipignore": "",
            "odd-name/pyvenv.cfg": "", "odd-name/lib/x.py": "", "pkg/venv.py": "",
        },
    )  # fmt: skip
    assert paths(bundle_directory(tmp_path)) == ["app.py", "pkg/venv.py"]


def test_a_worktrees_git_file_is_left_out(tmp_path: Path) -> None:
    assert paths(bundle_directory(write(tmp_path, **{".git": "gitdir: elsewhere", "app.py": ""}))) == ["app.py"]


@pytest.mark.parametrize("name", [".gitignore", ".clipignore"])
@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("*.bin", ["app.py", "d/app.py", "d/e/app.py", "weights"]),
        ("/weights", ["app.py", "d/app.py", "d/e/app.py", "d/x.bin", "x.bin"]),
        ("d/", ["app.py", "weights", "x.bin"]),
        ("weights/", ["app.py", "d/app.py", "d/e/app.py", "d/x.bin", "weights", "x.bin"]),
        ("d/*\n!d/e", ["app.py", "d/e/app.py", "weights", "x.bin"]),
        ("*\n!app.py", ["app.py"]),
        ("**/e/**", ["app.py", "d/app.py", "d/x.bin", "weights", "x.bin"]),
        ("# app.py\n\n\\#x\nd/app.py", ["app.py", "d/e/app.py", "d/x.bin", "weights", "x.bin"]),
    ],
)
def test_ignore_files_mean_what_git_means(tmp_path: Path, name: str, patterns: str, left: list[str]) -> None:
    files = dict.fromkeys(["app.py", "x.bin", "weights", "d/app.py", "d/x.bin", "d/e/app.py"], "")
    write(tmp_path, **files, **{name: patterns})
    assert paths(bundle_directory(tmp_path)) == left


def test_git_agrees(tmp_path: Path) -> None:
    files = ["a.log", "keep.log", "d/a.log", "d/keep.log", "d/e/x.tmp", "f/g/h.txt", "f/i.txt", "we ird", "x/y/z.log"]
    write(tmp_path, **dict.fromkeys(files, ""))
    write(
        tmp_path, **{".gitignore": "*.log\n!keep.log\nf/*\n!f/g\nwe\\ ird\n", "d/.gitignore": "!a.log\n*.tmp\nkeep.*\n"}
    )
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True, timeout=30)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard", "-z"], check=True, capture_output=True, timeout=30
    )
    expected = sorted(p for p in listed.stdout.decode().split("\0") if p and not p.endswith(".gitignore"))
    assert paths(bundle_directory(tmp_path)) == expected
    assert "d/a.log" in expected


def test_clipignore_wins_over_gitignore_at_any_depth(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            ".gitignore": "*.joblib\nmodels/\n", "models/.gitignore": "*\n",
            ".clipignore": "!model.joblib\n!models/\n!models/*\nnotes.md\n",
            "model.joblib": "", "other.joblib": "", "models/net.bin": "", "notes.md": "", "app.py": "",
        },
    )  # fmt: skip
    assert paths(bundle_directory(tmp_path)) == ["app.py", "model.joblib", "models/net.bin"]


def test_an_ignore_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, **{"app.py": "", "d/x": ""})
    (tmp_path / "d" / ".clipignore").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"d/\.clipignore: cannot be read"):
        bundle_directory(tmp_path)


# What cannot be packed


def test_a_link_inside_the_project_is_stored_as_what_it_means(tmp_path: Path) -> None:
    write(tmp_path, **{"real/data.txt": "x"})
    (tmp_path / "link.txt").symlink_to("real/data.txt")
    (tmp_path / "linked").symlink_to("real", target_is_directory=True)
    assert unpack(bundle_directory(tmp_path)) == {
        "link.txt": b"x", "linked/data.txt": b"x", "real/data.txt": b"x"
    }  # fmt: skip


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside.txt", "/etc", ".."])
def test_a_link_that_leaves_the_project_is_refused_by_name(tmp_path: Path, target: str) -> None:
    write(tmp_path, **{"outside.txt": "", "demo/app.py": ""})
    (tmp_path / "demo" / "escape").symlink_to(target)
    with pytest.raises(SpecError, match="escape is a link to a place outside the project"):
        bundle_directory(tmp_path / "demo")


@pytest.mark.parametrize("target", ["nothing", "loop"])
def test_a_link_to_nothing_is_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "loop").symlink_to(target)
    with pytest.raises(SpecError, match="loop is a link to nothing"):
        bundle_directory(tmp_path)


def test_a_link_to_a_directory_above_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, **{"d/x": ""})
    (tmp_path / "d" / "up").symlink_to("..")
    with pytest.raises(SpecError, match="d/up is a link to a directory that holds it"):
        bundle_directory(tmp_path)


def test_an_ignored_link_is_no_trouble(tmp_path: Path) -> None:
    write(tmp_path, **{"app.py": "", ".clipignore": "escape\n"})
    (tmp_path / "escape").symlink_to("/etc")
    assert paths(bundle_directory(tmp_path)) == ["app.py"]


def test_a_pipe_or_a_socket_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="pipe is neither a file nor a directory"):
        bundle_directory(tmp_path)
    (tmp_path / "pipe").unlink()
    monkeypatch.chdir(tmp_path)  # a socket's path is limited to some hundred bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")
        with pytest.raises(SpecError, match="sock is neither a file nor a directory"):
            bundle_directory(tmp_path)


@pytest.mark.parametrize("name", [b"bad\xff.txt", b"new\nline", b"esc\x1b[0m", b"del\x7f"])
def test_names_that_are_not_clean_text_are_refused(tmp_path: Path, name: bytes) -> None:
    with open(os.fsencode(tmp_path) + b"/" + name, "w"):
        pass
    with pytest.raises(SpecError, match=r"rename it"):
        bundle_directory(tmp_path)


def test_a_bundle_over_the_limit_names_the_largest_files(tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"f{n}.bin").write_bytes(bytes(1024 * n))
    with pytest.raises(
        SpecError, match=r"over the limit.*f7\.bin.*f6\.bin.*f5\.bin.*f4\.bin.*f3\.bin.*\.clipignore"
    ) as caught:
        bundle_directory(tmp_path, limits=Limits(uncompressed_bytes=10_000))
    assert "f2.bin" not in str(caught.value)


def test_a_bundle_that_compresses_badly_meets_the_other_limit(tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(os.urandom(50_000))
    with pytest.raises(SpecError, match=r"the bundle over the limit of 0\.0 MiB.*noise\.bin"):
        bundle_directory(tmp_path, limits=Limits(compressed_bytes=10_000))
    assert bundle_directory(tmp_path, limits=Limits(compressed_bytes=60_000)).files == (("noise.bin", 50_000),)


# What moves


def test_a_file_that_keeps_changing_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.txt"
    path.write_text("x" * 100)
    add, tries = tarfile.TarFile.addfile, []

    def growing(self: tarfile.TarFile, *args: object) -> None:
        tries.append(1)
        with path.open("a") as file:
            file.write("y")
        add(self, *args)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(tarfile.TarFile, "addfile", growing)
    with pytest.raises(SpecError, match=r"log\.txt changed while the bundle was made"):
        bundle_directory(tmp_path)
    assert len(tries) == packaging.MAX_TRIES


def test_a_file_that_shrinks_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"x" * 100_000)
    add = tarfile.TarFile.addfile

    shrunk: list[bool] = []

    def shrinking(self: tarfile.TarFile, *args: object) -> None:
        if not shrunk:
            shrunk.append(True)
            path.write_bytes(b"short")
        add(self, *args)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(tarfile.TarFile, "addfile", shrinking)
    assert unpack(bundle_directory(tmp_path)) == {"data.bin": b"short"}
    assert shrunk


def test_a_tree_that_is_written_to_gives_a_whole_archive_or_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "busy.bin"
    path.write_bytes(b"a" * 10_000)
    stop = threading.Event()

    def writer() -> None:
        n = 1
        while not stop.is_set():
            path.write_bytes(b"a" * (n % 7) * 10_000)
            n += 1

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(20):
            try:
                content = unpack(bundle_directory(tmp_path))["busy.bin"]
            except SpecError:
                continue
            assert len(content) % 10_000 == 0
    finally:
        stop.set()
        thread.join()


def test_a_directory_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    write(tmp_path, **{"secret/x": ""})
    (tmp_path / "secret").chmod(0)
    try:
        with pytest.raises(SpecError, match="secret/ cannot be read"):
            bundle_directory(tmp_path)
    finally:
        (tmp_path / "secret").chmod(0o700)
