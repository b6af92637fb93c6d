"""Requirement lines are read as pip reads them: the same are taken, the same refused."""

from __future__ import annotations

import pytest

from clipper.contract.credentials import mask
from clipper.contract.requirements import (
    Option,
    Requirement,
    check_hashes,
    expand_variables,
    logical_lines,
    parse_line,
)

DIGEST = "sha256:" + "ab" * 32


def requirement(line: str) -> Requirement:
    parsed = parse_line(line)
    assert isinstance(parsed, Requirement)
    return parsed


@pytest.mark.parametrize(
    "line",
    [
        "tinypkg 2", "tinypkg=1", "tinypkg==1.0 beta", "tinypkg==", "tinypkg>1.*", "2 tinypkg", "tinypkg @", "a b c",
        "tinypkg==1.0 ; python_version", "tinypkg[", "tinypkg>=1 <2", "x.whl", "./not-a-wheel.whl",
    ],
)  # fmt: skip
def test_a_line_that_pip_refuses_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_line(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--bogus", "no such option"),
        ("tinypkg --index-url https://x", "line of its own"),
        (f"--hash={DIGEST}", "belongs to a requirement"),
        ("tinypkg==1.0 --hash=sha256:abc", "64 digits"),
        ("tinypkg==1.0 --hash=md5:d41d8cd98f00b204e9800998ecf8427e", "algorithm"),
        ("tinypkg --global-option=x", "cannot be honoured"),
        ("tinypkg --config-settings x", "KEY=VALUE"),
        ("tinypkg\x00", "control character"),
        ("-r", "requires 1 argument"),
        ("tinypkg @ s3://bucket/x.whl", "s3:"),
    ],
)
def test_the_refusal_says_why(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "tinypkg", "Tiny_Pkg [a, b] >= 1.0 , < 2", "tinypkg (>=1)", "tinypkg==1.*", "tinypkg===1.0+local",
        "tinypkg>=1 ; sys_platform == 'linux' and extra == 'x'", f"tinypkg==1.0 --hash={DIGEST} --hash={DIGEST}",
        "tinypkg @ https://example.com/tinypkg-1.0-py3-none-any.whl#sha256=ab", "git+ssh://git@example.com/x.git@v1",
        "https://example.com/tinypkg-1.0.tar.gz", "tinypkg>=1 --config-settings='a=b c'",
    ],
)  # fmt: skip
def test_what_is_installed_is_what_was_written(line: str) -> None:
    parsed = requirement(line)
    assert parsed.line == line
    assert requirement(parsed.line) == parsed


@pytest.mark.parametrize(
    ("line", "name", "path", "rendered"),
    [
        ("./wheels/Tiny_Pkg-1.0-py3-none-any.whl", "", "./wheels/Tiny_Pkg-1.0-py3-none-any.whl", None),
        ("wheels/tiny-1.0.tar.gz[fast]", "", "wheels/tiny-1.0.tar.gz", "file:wheels/tiny-1.0.tar.gz[fast]"),
        ("-e .", "", ".", None),
        ("-e ./lib[a,b]", "", "./lib", None),
        ("./lib ; python_version > '3'", "", "./lib", './lib ; python_version > "3"'),
        ("tiny @ file:///a%20b/tiny-1.0.zip", "tiny", "/a b/tiny-1.0.zip", "tiny @ file:/a%20b/tiny-1.0.zip"),
        ("tiny @ ./lib", "tiny", "./lib", None),
    ],
)  # fmt: skip
def test_files_are_told_from_packages(line: str, name: str, path: str, rendered: str | None) -> None:
    parsed = requirement(line)
    assert (parsed.name, parsed.path) == (name, path)
    assert parsed.line == (rendered or line)
    assert requirement(parsed.line) == parsed


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("-rother.txt", [("--requirement", "other.txt")]),
        ("--requirement=other.txt", [("--requirement", "other.txt")]),
        ("-i https://x --extra-index https://y", [("--index-url", "https://x"), ("--extra-index-url", "https://y")]),
        ("-f 'a b'", [("--find-links", "a b")]),
        ("--pre", [("--pre", "")]),
    ],
)
def test_options_take_their_long_name(line: str, options: list[tuple[str, str]]) -> None:
    assert parse_line(line) == tuple(Option(flag=flag, value=value) for flag, value in options)


def test_spellings_of_one_request_have_one_identity() -> None:
    spellings = ["Scikit_Learn >=1.5,<2", "scikit-learn<2, >=1.5", "scikit.learn (>=1.5,<2)"]
    assert {requirement(line).identity for line in spellings} == {"scikit-learn<2,>=1.5"}
    assert requirement("tinypkg").identity != requirement("tinypkg2").identity


def test_the_identity_holds_no_credentials_and_tells_addresses_apart() -> None:
    one, rotated, other = (
        requirement(f"tiny @ https://{user}@example.com/{file}")
        for user, file in (("me:old", "a.zip"), ("me:new", "a.zip"), ("me:old", "b.zip"))
    )
    assert one.identity == rotated.identity != other.identity
    assert "old" not in one.identity


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("--index-url https://me:token@x/simple", "--index-url https://****@x/simple"),
        ("https://token@x/y and http://a:b@z", "https://****@x/y and http://****@z"),
        ("https://me:p@ss@x/y", "https://****@x/y"),
        ("git+ssh://git@example.com/x.git", "git+ssh://git@example.com/x.git"),
        ("https://x/a.whl?X-Amz-Signature=abc&v=1", "https://x/a.whl?X-Amz-Signature=****&v=1"),
        ("https://x/a?private_token=abc", "https://x/a?private_token=****"),
        ("mail me@example.com", "mail me@example.com"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_lines_are_joined_and_comments_left_out_as_pip_does() -> None:
    text = (
        "# by pip-compile\n--index-url https://x\n\n"
        f"tinypkg==1.0 \\\n    --hash={DIGEST} \\\n    --hash={DIGEST}\n    # via other\n"
        "git+https://x/y#egg=z  # why\nlast \\\n"
    )
    assert [" ".join(line.split()) for line in logical_lines(text)] == [
        "--index-url https://x",
        f"tinypkg==1.0 --hash={DIGEST} --hash={DIGEST}",
        "git+https://x/y#egg=z",
        "last",
    ]


def test_variables_are_replaced_or_refused_by_name() -> None:
    assert expand_variables("https://${USER_1}:${TOKEN}@x ${lower} $PLAIN", {"USER_1": "me", "TOKEN": "t"}) == (
        "https://me:t@x ${lower} $PLAIN"
    )
    with pytest.raises(ValueError, match="TOKEN is not set"):
        expand_variables("https://${TOKEN}@x", {})


def test_one_hash_asks_for_those_of_all() -> None:
    hashed = requirement(f"tinypkg==1.0 --hash={DIGEST}")
    assert not check_hashes([requirement("tinypkg")], [])
    assert check_hashes([hashed], [])
    assert check_hashes([requirement("tinypkg==1.0")], [hashed])  # pip-compile's output as constraints
    with pytest.raises(ValueError, match="'other' has no --hash"):
        check_hashes([hashed, requirement("other")], [])
    with pytest.raises(ValueError, match="pin it with =="):
        check_hashes([requirement(f"tinypkg>=1.0 --hash={DIGEST}")], [])
    # As `uv export` writes them: the project itself, and what a commit names.
    commit = "git+https://x/y@" + "0" * 40
    assert check_hashes([hashed, requirement("-e ."), requirement(f"y @ {commit}")], [])
    with pytest.raises(ValueError, match="no --hash"):
        check_hashes([hashed, requirement("y @ git+https://x/y@main")], [])
