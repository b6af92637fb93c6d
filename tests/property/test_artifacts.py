"""Whatever a bundle holds comes out as it went in; whatever is done to its bytes, nothing else happens."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.packaging import bundle_files
from clipper_platform.errors import InvalidSpec
from clipper_platform.store.archive import MAX_PATH_BYTES, Limits, check, extract, members
from tests.support.bundles import member, packed, tarred, zipped

LIMITS = Limits(unpacked_bytes=1024**2, files=200)

PARTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\"), min_size=1, max_size=40
).filter(lambda part: part not in (".", "..") and len(part.encode()) <= 100)
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
FORMATS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def taken(data: bytes) -> bool:
    """Whether the archive is acceptable. Anything but a refusal in words is a defect, and so propagates."""
    try:
        check(io.BytesIO(data), LIMITS)
    except InvalidSpec:
        return False
    return True


def consistent(files: Mapping[str, bytes]) -> bool:
    """No file is also a directory of another."""
    return not any(other.startswith(f"{path}/") for path in files for other in files)


TREES = st.dictionaries(PATHS, st.binary(max_size=2_000), max_size=8).filter(consistent)


@given(files=TREES, form=FORMATS)
def test_every_tree_of_files_comes_out_as_it_went_in(files: dict[str, bytes], form: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        extract(io.BytesIO(packed(files, form=form)), Path(directory), LIMITS)
        found = {p.relative_to(directory).as_posix(): p.read_bytes() for p in Path(directory).rglob("*") if p.is_file()}
    assert found == files


@given(files=TREES)
def test_what_the_client_packs_the_platform_takes(files: dict[str, bytes]) -> None:
    bundle = bundle_files(files)
    found = {m.name: b"".join(m.chunks) for m in members(io.BytesIO(bundle.data), LIMITS)}
    assert found == files


@given(
    name=st.lists(st.sampled_from(["a", "..", ".", "/", "\\", "\0", "\n", "é"]), min_size=1, max_size=9).map("".join),
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, b"Z"]),
    form=FORMATS,
)
def test_no_name_leads_out_of_the_tree(name: str, kind: bytes, form: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        inside = Path(directory, "inside")
        inside.mkdir()
        try:
            extract(io.BytesIO(zipped(tarred([member(name, b"", kind=kind, link="/")], form=form))), inside, LIMITS)
        except InvalidSpec:
            pass  # most are refused; what is not must stay inside
        assert [path.name for path in Path(directory).iterdir()] == ["inside"]
        assert not any(path.is_symlink() for path in inside.rglob("*"))


@given(
    files=TREES,
    form=FORMATS,
    edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=10),
    cut=st.integers(0, 2**20),
)
@settings(max_examples=200)
def test_a_tar_with_changed_bytes_is_read_to_its_end_or_refused(
    files: dict[str, bytes], form: int, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(tarred([member(name, content) for name, content in files.items()], form=form))
    for at, value in edits:
        data[at % len(data)] = value
    taken(zipped(bytes(data[: cut % len(data) + 1])))


@given(files=TREES, at=st.integers(0, 2**20), bit=st.integers(0, 7), cut=st.integers(1, 2**20))
def test_a_gzip_stream_that_is_cut_is_refused_and_one_that_is_changed_does_no_harm(
    files: dict[str, bytes], at: int, bit: int, cut: int
) -> None:
    data = bytearray(packed(files))
    assert not taken(bytes(data[: cut % len(data)]))
    data[at % len(data)] ^= 1 << bit
    taken(bytes(data))


@given(data=st.binary(max_size=3_000), compressed=st.booleans())
def test_garbage_is_refused(data: bytes, compressed: bool) -> None:
    # Compressed blocks of zeros are an archive without files.
    assert not taken(zlib.compress(data, wbits=31) if compressed else data) or not any(data)


@given(depth=st.integers(1, 100), part=st.integers(1, 300))
def test_a_path_that_is_taken_can_be_written(depth: int, part: int) -> None:
    path = "/".join(["p" * part] * depth)
    with tempfile.TemporaryDirectory() as directory:
        try:
            extract(io.BytesIO(packed({path: b"1"})), Path(directory), LIMITS)
        except InvalidSpec:
            assert depth > 64 or part > 255 or len(path) > MAX_PATH_BYTES
        else:
            assert Path(directory, path).read_bytes() == b"1"
