"""A requirements file of a project with all that it includes becomes the lines of a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper.contract.spec import SpecError
from clipper.requirement_files import Requirements, read_requirements

DIGEST = "sha256:" + "ab" * 32


def read(directory: Path, value: str | list[str] = "requirements.txt", **environ: str) -> Requirements:
    return read_requirements(directory, value, where="clip.toml", environ=environ)


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(text)
    return directory


def test_included_files_are_put_in_place_and_constraints_kept_apart(tmp_path: Path) -> None:
    write(tmp_path, requirements="a\n-r more/base.txt\n-c bounds.txt\n", bounds="a<2\n", more__base="b\n-r sub.txt\n")
    write(tmp_path, more__sub="c\n-r ../requirements.txt\n")
    found = read(tmp_path)
    assert found.lines == ("a", "b", "c")
    assert found.constraints == ("a<2",)
    assert found.files == ("requirements.txt", "more/base.txt", "more/sub.txt", "bounds.txt")


def test_a_list_may_include_files_too(tmp_path: Path) -> None:
    write(tmp_path, requirements="a\n")
    assert read(tmp_path, ["-r requirements.txt", "b  # why"]).lines == ("a", "b")


def test_hashes_of_continued_lines_stay_with_their_requirement(tmp_path: Path) -> None:
    write(tmp_path, requirements=f"a==1 \\\n    --hash={DIGEST} \\\n    --hash={DIGEST}\n    # via b\n")
    assert read(tmp_path).lines == (f"a==1 --hash={DIGEST} --hash={DIGEST}",)


def test_paths_become_relative_to_the_project(tmp_path: Path) -> None:
    wheel = "x-1.0-py3-none-any.whl"
    write(tmp_path, requirements="-r more/base.txt", more__base=f"--find-links wheels\n./{wheel}\nlib @ file:///{{}}\n")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "lib dir").mkdir()
    (tmp_path / "more" / wheel).touch()
    base = tmp_path / "more/base.txt"
    base.write_text(base.read_text().replace("file:///{}", (tmp_path / "lib dir").as_uri()))
    assert read(tmp_path).lines == ("--find-links ./wheels", f"./more/{wheel}", "lib @ file:./lib%20dir")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("tinypkg 2", "'tinypkg 2' is not allowed"),
        ("-r ../other.txt", "outside the project"),
        ("-r missing.txt", "no such file"),
        ("../wheels/x-1.0-py3-none-any.whl", "outside the project"),
        ("--find-links ../wheels", "outside the project"),
        ("./missing-1.0-py3-none-any.whl", "no such file"),
        ("--index-url https://${TOKEN}@x/simple", "TOKEN is not set"),
        (f"b\na==1 --hash={DIGEST}", "'b' has no --hash"),
    ],
)
def test_the_refusal_names_the_file_and_the_line(tmp_path: Path, line: str, reason: str) -> None:
    write(tmp_path, requirements=line)
    with pytest.raises(SpecError, match=reason):
        read(tmp_path)


def test_a_refusal_shows_no_credentials(tmp_path: Path) -> None:
    write(tmp_path, requirements="--index-url https://${USER}:${TOKEN}@x/simple --bogus")
    with pytest.raises(SpecError) as refused:
        read(tmp_path, USER="me", TOKEN="secret")
    assert "secret" not in str(refused.value)


def test_variables_take_the_values_of_this_machine(tmp_path: Path) -> None:
    write(tmp_path, requirements="--index-url https://${USER}:${TOKEN}@x/simple\na\n")
    assert read(tmp_path, USER="me", TOKEN="t").lines == ("--index-url https://me:t@x/simple", "a")


def test_the_machines_own_places_stay_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, requirements="--extra-index-url file:///opt/simple\n--find-links /opt/wheels\na==1\n")
    assert read(tmp_path).lines == ("--extra-index-url /opt/simple", "--find-links /opt/wheels", "a==1")


def test_a_function_without_a_project_has_no_files() -> None:
    assert read_requirements(None, ["numpy"], where="deploy()").lines == ("numpy",)
    for line in ("-r requirements.txt", "./x-1.0-py3-none-any.whl", "--find-links wheels"):
        with pytest.raises(SpecError, match="without a project"):
            read_requirements(None, [line], where="deploy()")
