"""What uv is asked to run for the requirements of a project, and which requests share an environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.manifest import PACKAGES
from clipper.contract.spec import EnvironmentSpec
from clipper_platform.environments.installation import Installation, Step
from clipper_platform.errors import DeployFailed

RUNTIME = ("msgspec>=0.19",)
HASHED = "a==1 --hash=sha256:" + "ab" * 32
LINES = st.lists(st.sampled_from(["numpy", "Scikit_Learn >= 1.5", "six==1.17.0", "a[b] ; python_version<'4'"]))


def installation(*lines: str, files: Path | None = None, **more: tuple[str, ...]) -> Installation:
    return Installation(EnvironmentSpec(requirements=lines, **more), RUNTIME, files)  # type: ignore[arg-type]


def steps(*lines: str, files: Path | None = None) -> list[Step]:
    return installation(*lines, files=files).steps((files or Path()) / "scratch")


@given(LINES, st.randoms())
def test_the_order_of_packages_and_repetitions_do_not_matter(lines: list[str], random: object) -> None:
    shuffled = list(lines)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as object
    assert installation(*lines).identity == installation(*shuffled, *shuffled).identity


def test_different_requests_have_different_identities(tmp_path: Path) -> None:
    identities = [
        installation(*lines, files=tmp_path, **more).identity
        for lines, more in (
            ((), {}), (("a",), {}), (("a==1",), {}), ((HASHED,), {}), (("a", "--pre"), {}),
            (("a", "--index-url https://x"), {}), (("a",), {"constraints": ("b<2",)}),
            (("a",), {"exclude": ("torch",)}),
        )
    ]  # fmt: skip
    assert len({str(identity) for identity in identities}) == len(identities)


def test_a_changed_wheel_of_the_same_name_is_another_request(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1.0-py3-none-any.whl"
    identities = set()
    for content in (b"one", b"two"):
        wheel.write_bytes(content)
        identities |= {
            str(installation(line, files=tmp_path).identity) for line in (f"./{wheel.name}", "--find-links .", ".")
        }
    assert len(identities) == 6


def test_plain_requirements_are_resolved_with_the_runtimes_own_as_they_were_written() -> None:
    assert steps("Scikit_Learn >= 1.5", "six ; python_version<'4'") == [
        Step(lines=("Scikit_Learn >= 1.5", "six ; python_version<'4'"), also=RUNTIME)
    ]


def test_what_the_runtime_needs_comes_from_the_platforms_index_where_a_project_names_its_own() -> None:
    assert steps("--index-url https://x/simple", "a") == [
        Step(
            lines=("--index-url https://x/simple", "a"),
            bounds=RUNTIME,
            flags=("--index-strategy=unsafe-first-match",),
        ),
        Step(also=RUNTIME),
    ]


def test_where_one_has_a_hash_all_need_it_but_the_runtimes_own(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "setup.py").touch()
    hashed, local, runtime = steps(HASHED, "-e ./lib", files=tmp_path)
    assert hashed.lines == (HASHED,)
    assert "--require-hashes" in hashed.flags
    assert "--no-deps" in local.flags
    assert local.lines[0].endswith("/lib")
    assert not local.lines[0].startswith(str(tmp_path / "lib"))  # a copy: builds write into their directory
    assert runtime == Step(also=RUNTIME, bounds=("a==1",))
    with pytest.raises(DeployFailed, match="'b' has no --hash"):
        installation(HASHED, "b")


def test_options_that_uv_knows_by_another_name_become_flags() -> None:
    (step,) = steps("--pre", "--trusted-host h", "a --config-settings x=y", "--prefer-binary")
    assert step.lines == ("a",)
    assert step.flags == ("--prerelease=allow", "--allow-insecure-host=h", "--config-settings-package=a:x=y")


@pytest.mark.parametrize("line", ["tinypkg 2", "./missing", "../out", "--find-links nowhere"])
def test_what_cannot_be_installed_is_refused_before_anything_is_built(tmp_path: Path, line: str) -> None:
    with pytest.raises(DeployFailed):
        installation(line, files=tmp_path)


def test_a_package_of_the_name_of_the_sdk_is_refused_as_a_clash() -> None:
    with pytest.raises(DeployFailed, match="'clipper' clashes with the runtime"):
        installation("Clipper>=0.1")


def test_a_place_of_another_machine_is_left_out_as_with_pip(tmp_path: Path) -> None:
    found, _ = steps(f"--find-links {tmp_path}", f"--extra-index-url {tmp_path}/missing", "a")
    assert found.lines == (f"--find-links {tmp_path}", "a")
    (plain,) = steps(f"--find-links {tmp_path}/missing", "a")
    assert plain.lines == ("a",)


@pytest.mark.parametrize("line", ["-e .", "./lib", "lib @ ./lib"])
def test_a_directory_that_is_no_python_project_is_refused_by_its_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "lib").mkdir()
    with pytest.raises(DeployFailed, match=r"holds no Python project: it has no pyproject.toml or setup.py"):
        steps(line, files=tmp_path)


def test_the_packages_of_a_version_bind_each_step_and_are_no_part_of_the_identity() -> None:
    spec = EnvironmentSpec(requirements=("a",))
    bound = Installation(spec, RUNTIME, None, {PACKAGES: "a==1 b==2"})
    (step,) = bound.steps(Path("scratch"))
    assert (step.bounds, step.flags) == (("a==1", "b==2"), ())
    assert bound.identity == installation("a").identity
