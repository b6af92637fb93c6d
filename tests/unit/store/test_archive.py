"""The reader of bundles: what it takes, and what it refuses and by which words."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from clipper_platform.errors import InvalidSpec
from clipper_platform.store.archive import Limits, check, extract, members
from tests.support.bundles import Member, member, packed, tarred, zipped

LIMITS = Limits(unpacked_bytes=1024**2, files=100)


def refusal(archive: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidSpec) as caught:
        check(io.BytesIO(archive), limits)
    return caught.value.message


def raw(*parts: bytes) -> bytes:
    """Blocks as they are, then the end of an archive."""
    return zipped(b"".join(parts) + b"\0" * 1024)


def block(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8")


def extension(kind: bytes, data: bytes) -> bytes:
    info, _ = member("extension", data, kind=kind)
    return block(info) + data + b"\0" * (-len(data) % 512)


FILE = block(member("a.txt")[0])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_directories_and_the_executable_bit_are_unpacked_from_every_format(tmp_path: Path, form: int) -> None:
    long = "/".join(["directory"] * 15) + "/größe.txt"  # over the 100 bytes of a plain header
    archive = zipped(
        tarred(
            [
                member("./", kind=tarfile.DIRTYPE, mode=0o755),
                member("./app.py", b"print()\n", mode=0o4644),
                member("bin", kind=tarfile.DIRTYPE),
                member("bin/run", b"#!/bin/sh\n", mode=0o777),
                member("empty"),
                member(long, b"x" * 700),
            ],
            form=form,
        )
    )
    extract(io.BytesIO(archive), tmp_path, LIMITS)
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "app.py": b"print()\n",
        "bin/run": b"#!/bin/sh\n",
        "empty": b"",
        long: b"x" * 700,
    }
    modes = {name: os.stat(path).st_mode & 0o7777 for name, path in found.items()}
    assert modes == {"app.py": 0o644, "bin/run": 0o755, "empty": 0o644, long: 0o644}


def test_a_directory_may_follow_the_files_in_it(tmp_path: Path) -> None:
    archive = zipped(tarred([member("a/b", b"1"), member("a", kind=tarfile.DIRTYPE)]))
    extract(io.BytesIO(archive), tmp_path, LIMITS)
    assert (tmp_path / "a/b").read_bytes() == b"1"


def test_the_comment_that_git_archive_writes_is_passed_over() -> None:
    archive = raw(extension(tarfile.XGLTYPE, b"52 comment=" + b"0" * 40 + b"\n"), FILE)
    assert [m.name for m in members(io.BytesIO(archive), LIMITS)] == ["a.txt"]


def test_a_member_that_is_not_read_is_passed_over() -> None:
    archive = packed({"a": b"1" * 5_000, "b": b"2"})
    assert [(m.name, m.size) for m in members(io.BytesIO(archive), LIMITS)] == [("a", 5_000), ("b", 1)]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("a/..", "leads out"),
        ("a\\b", "backslash"),
        ("a\nb", "control character"),
        ("a\x1b[31m", "control character"),
        ("a\x7f", "control character"),
        ("a\x85b", "control character"),
        ("x" * 256, "too long"),
        ("/".join(["x" * 250] * 5), "too long"),
        ("/".join(["d"] * 65), "too deep"),
    ],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_a_path_that_must_not_be_written_is_refused_by_name(name: str, why: str, kind: bytes) -> None:
    message = refusal(zipped(tarred([member("app.py", b"1"), member(name, kind=kind)])))
    assert why in message
    assert repr(name[:50])[1:-1] in message


def test_a_nul_in_a_long_name_is_refused() -> None:
    record = b"path=a\0b\n"
    assert "control character" in refusal(raw(extension(tarfile.XHDTYPE, b"12 " + record), FILE))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.CONTTYPE, "unknown type"),
        (b"Z", "unknown type"),
    ],
)
def test_what_is_neither_file_nor_directory_is_refused_by_name(kind: bytes, why: str) -> None:
    message = refusal(zipped(tarred([member("data/odd", kind=kind, link="app.py")])))
    assert "'data/odd'" in message
    assert why in message


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        ([member("a", b"1"), member("a", b"2")], "'a' twice"),
        ([member("a", b"1"), member("./a", b"2")], "'a' twice"),
        ([member("d", kind=tarfile.DIRTYPE), member("d", kind=tarfile.DIRTYPE)], "'d' twice"),
        ([member("d", kind=tarfile.DIRTYPE), member("d")], "'d' twice"),
        ([member("d/a"), member("d")], "'d' twice"),
        ([member("d"), member("d/a")], "'d' as a file and as a directory"),
        ([member("d"), member("d", kind=tarfile.DIRTYPE)], "'d' twice"),
    ],
)
def test_a_path_that_comes_twice_is_refused(pair: list[Member], why: str) -> None:
    assert why in refusal(zipped(tarred(pair)))


def test_a_file_over_the_limit_is_refused_by_name_before_it_is_inflated() -> None:
    limits = Limits(unpacked_bytes=10_000, files=10)
    assert "'big'" in refusal(packed({"small": b"1", "big": b"0" * 10_000}), limits)
    header = member("huge")[0]
    header.size = 2**40
    assert "'huge'" in refusal(raw(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")))


def test_zeros_after_the_end_count_too() -> None:
    bomb = zlib.compressobj(wbits=31)
    data = (
        bomb.compress(FILE + b"\0" * 1024) + b"".join(bomb.compress(b"\0" * 1024**2) for _ in range(64)) + bomb.flush()
    )
    assert len(data) < 100_000
    assert "more than the 1048576 bytes" in refusal(data)


def test_more_files_than_allowed_are_refused_and_so_are_directories_that_are_only_implied() -> None:
    limits = Limits(unpacked_bytes=1024**2, files=5)
    assert "more than the 5 files" in refusal(packed({f"f{i}": b"" for i in range(6)}), limits)
    assert "more than the 5 files" in refusal(packed({"a/b/c/d/e/f": b""}), limits)
    check(io.BytesIO(packed({f"f{i}": b"" for i in range(5)})), limits)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut off"),
        (b"PK\x03\x04 a zip", "not gzip"),
        (b"\x00" * 1_000, "not gzip"),
        (zipped(b""), "cut off within 'a header'"),
        (zipped(b"not a tar, but long enough to be one" * 50), "not a tar"),
        (zipped(tarred([member("a")]))[:-9], "cut off"),
        (zipped(tarred([member("a")]))[:-1], "cut off"),
        (zipped(FILE), "cut off within 'a header'"),
        (zipped(block(member("a", b"1" * 600)[0]) + b"1" * 512), "cut off within 'a'"),
        (zipped(tarred([member("a")]))[:-8] + struct.pack("<II", 0, 0), "damaged"),
        (zipped(tarred([member("a")])) + b"more", "after the end of its gzip stream"),
        (zipped(tarred([member("a")])) + zipped(b"more"), "after the end of its gzip stream"),
        (zipped(FILE + b"\0" * 512 + FILE), "after its end marker"),
        (raw(FILE, b"\1" * 512), "not a tar"),
    ],
)
def test_what_is_cut_off_damaged_or_something_else_is_refused(data: bytes, why: str) -> None:
    assert why in refusal(data)


def test_a_damaged_header_is_not_taken_for_the_end() -> None:
    whole = bytearray(tarred([member("a", b"1"), member("evil", b"2")]))
    whole[1024 + 5] ^= 0xFF  # within the second header
    assert "bad checksum" in refusal(zipped(bytes(whole)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"22 GNU.sparse.major=1\n", "'GNU.sparse.major'"),
        (b"13 size=9999\n", "'size'"),
        (b"99 path=short\n", "damaged"),
        (b"0 path=a\n", "damaged"),
        (b"-5 path=a\n", "damaged"),
        (b"99999999999 path=a\n", "damaged"),
        (b"11 path=abx", "damaged"),
        (b"10 nothing", "damaged"),
        (b"11 path=\xff\xfe\n", "UTF-8"),
    ],
)
def test_an_extended_header_that_is_damaged_or_says_too_much_is_refused(data: bytes, why: str) -> None:
    assert why in refusal(raw(extension(tarfile.XHDTYPE, data), FILE))


def test_a_global_header_may_not_name_every_file() -> None:
    assert "'path'" in refusal(raw(extension(tarfile.XGLTYPE, b"10 path=a\n"), FILE))


def test_an_extended_header_is_not_read_into_memory_whatever_its_size() -> None:
    info, _ = member("extension", kind=tarfile.XHDTYPE)
    info.size = 900_000
    assert "900000 bytes" in refusal(raw(block(info), b"0" * 900_000))


def test_an_extended_header_without_a_file_is_refused() -> None:
    assert "announces a file" in refusal(raw(extension(tarfile.XHDTYPE, b"10 path=a\n")))


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    named = tarred([member("latin")]).replace(b"latin", b"gr\xf6\xdf")
    header = bytearray(named[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "UTF-8" in refusal(zipped(bytes(header) + b"\0" * 1024))
