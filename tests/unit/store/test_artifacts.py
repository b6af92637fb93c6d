"""Bundles on disk: stored whole or not at all, verified, unpacked once, collected."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from clipper_platform.errors import InternalError, InvalidSpec, NotFound, PayloadTooLarge, StoreUnavailable
from clipper_platform.store import archive
from clipper_platform.store.artifacts import Artifact, ArtifactStore
from clipper_platform.types import BundleDigest
from tests.support.bundles import chunks_of, digest_of, member, packed, tarred, zipped

# The same in every process: pytest-xdist compares the names of tests, which hold parameters.
DATA = packed({"app.py": b"print('hello')\n", "data/weights.bin": random.Random(1).randbytes(100_000)})
DIGEST = BundleDigest(digest_of(DATA))
HEX = DIGEST.removeprefix("sha256:")


class SettableClock:
    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "bundles"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[ArtifactStore]:
    store = ArtifactStore(root, max_bundle_bytes=1024**2, max_unpacked_bytes=2 * 1024**2, max_files=50)
    await store.open()
    yield store
    await store.close()
    assert os.listdir(root / "tmp") == []  # whatever happened left nothing half-written


async def sizes(store: ArtifactStore) -> dict[str, int]:
    return {artifact.digest: artifact.bytes for artifact in await store.list()}


async def put(store: ArtifactStore, data: bytes = DATA, digest: str = "") -> Artifact:
    return await store.put(digest or digest_of(data), chunks_of(data))


# Storing


async def test_a_bundle_is_stored_under_its_digest_and_read_back(store: ArtifactStore) -> None:
    assert not store.has(DIGEST)
    stored = await put(store)
    assert (stored.digest, stored.bytes) == (DIGEST, len(DATA))
    assert store.has(DIGEST)
    assert await store.read(DIGEST) == DATA
    assert await sizes(store) == {DIGEST: len(DATA)}


async def test_only_the_owner_can_read_what_is_stored(store: ArtifactStore, root: Path) -> None:
    await put(store)
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(root / f"{HEX}.tar.gz").st_mode) == 0o600


async def test_a_bundle_of_several_megabytes_in_small_pieces_is_stored_whole(root: Path) -> None:
    store = ArtifactStore(root)
    await store.open()
    data = packed({"weights": os.urandom(3_500_000)})
    await store.put(digest_of(data), chunks_of(data, 100_001))
    assert await store.read(digest_of(data)) == data
    await store.close()


async def test_bytes_of_another_digest_are_refused_and_not_kept(store: ArtifactStore, root: Path) -> None:
    with pytest.raises(InvalidSpec, match=f"{digest_of(DATA)}, not the sha256:{'0' * 64}"):
        await put(store, digest="sha256:" + "0" * 64)
    assert list(await store.list()) == []


async def test_an_upload_over_the_limit_is_refused_before_the_rest_of_it_is_taken(store: ArtifactStore) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100_000
            yield bytes(100_000)

    with pytest.raises(PayloadTooLarge, match=r"1048576 bytes.*\.clipignore"):
        await store.put(DIGEST, endless())
    assert taken == 1_100_000
    assert list(await store.list()) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage" * 100, DATA[:-1], zipped(tarred([member("../evil", b"1")]))],
    ids=["empty", "garbage", "cut off", "leads out"],
)
async def test_an_archive_that_could_not_be_unpacked_is_not_stored(store: ArtifactStore, data: bytes) -> None:
    with pytest.raises(InvalidSpec):
        await put(store, data)
    assert not store.has(digest_of(data))


async def test_the_limits_hold_on_the_way_in(store: ArtifactStore) -> None:
    with pytest.raises(InvalidSpec, match="2097152 bytes"):
        await put(store, packed({"zeros": bytes(3 * 1024**2)}))
    with pytest.raises(InvalidSpec, match="50 files"):
        await put(store, packed({f"{i}": b"" for i in range(51)}))


async def test_an_upload_whose_client_breaks_off_leaves_nothing(store: ArtifactStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA[:50_000]
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store.put(DIGEST, broken())
    assert not store.has(DIGEST)


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_an_upload_cancelled_anywhere_leaves_all_or_nothing(store: ArtifactStore, steps: int) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        async for chunk in chunks_of(DATA, 10_000):
            await asyncio.sleep(0)
            yield chunk

    task = asyncio.create_task(store.put(DIGEST, trickle()))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    await store.open()
    assert await store.read(DIGEST) == DATA if store.has(DIGEST) else list(await store.list()) == []


async def test_the_same_bundle_uploaded_many_times_at_once_is_stored_once(store: ArtifactStore) -> None:
    await asyncio.gather(*(put(store) for _ in range(10)))
    assert await sizes(store) == {DIGEST: len(DATA)}
    assert await store.read(DIGEST) == DATA


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "a" * 64, "sha256:" + "A" * 64, DIGEST + "\n"]
)
async def test_what_is_no_digest_is_refused_by_every_method(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(InvalidSpec, match="no digest"):
        store.has(digest)
    for method in (store.read, store.unpack, store.delete):
        with pytest.raises(InvalidSpec, match="no digest"):
            await method(digest)
    with pytest.raises(InvalidSpec, match="no digest"):
        await store.put(digest, chunks_of(DATA))
    with pytest.raises(InvalidSpec, match="no digest"):
        await store.collect({digest})


async def test_an_unknown_bundle_is_not_found(store: ArtifactStore) -> None:
    for method in (store.read, store.unpack, store.delete):
        with pytest.raises(NotFound, match="upload it first"):
            await method(DIGEST)


# Damage


@pytest.mark.parametrize("method", ["read", "unpack"])
async def test_damage_on_disk_is_noticed_set_aside_and_healed_by_another_upload(
    store: ArtifactStore, root: Path, method: str
) -> None:
    await put(store)
    path = root / f"{HEX}.tar.gz"
    damaged = bytearray(DATA)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InternalError, match="its bytes on disk changed") as caught:
        await getattr(store, method)(DIGEST)
    assert caught.value.details == {"digest": DIGEST}
    assert (root / "damaged" / path.name).read_bytes() == damaged
    assert not store.has(DIGEST)
    assert not (root / "trees" / HEX).exists()
    with pytest.raises(NotFound):
        await store.read(DIGEST)
    await put(store)
    assert await store.read(DIGEST) == DATA
    assert (await store.unpack(DIGEST) / "app.py").read_bytes() == b"print('hello')\n"


# Unpacking


async def test_a_bundle_is_unpacked_once_into_its_own_directory(store: ArtifactStore, root: Path) -> None:
    await put(store)
    tree = await store.unpack(DIGEST)
    assert tree == root / "trees" / HEX
    assert (tree / "app.py").read_bytes() == b"print('hello')\n"
    (tree / "mark").touch()
    assert await store.unpack(DIGEST) == tree
    assert (tree / "mark").exists()


async def test_calls_at_the_same_time_share_one_unpacking(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)
    started, go, count = threading.Event(), threading.Event(), 0
    real = archive.extract

    def slow(*args: object) -> None:
        nonlocal count
        count += 1
        started.set()
        assert go.wait(10)
        real(*args)  # type: ignore[arg-type]  # what it was called with

    monkeypatch.setattr(archive, "extract", slow)
    calls = [asyncio.create_task(store.unpack(DIGEST)) for _ in range(5)]
    await asyncio.to_thread(started.wait, 10)
    calls[0].cancel()  # the one that began it
    await asyncio.gather(calls[0], return_exceptions=True)
    go.set()
    trees = await asyncio.gather(*calls[1:])
    assert len(set(trees)) == count == 1
    assert (trees[0] / "app.py").exists()


async def test_an_unpacking_that_fails_leaves_no_tree_and_may_be_tried_again(
    store: ArtifactStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(archive, "extract", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await store.unpack(DIGEST)
    assert not (root / "trees" / HEX).exists()
    assert (await store.unpack(DIGEST) / "app.py").exists()


async def test_a_bundle_deleted_while_it_is_unpacked_leaves_no_tree(
    store: ArtifactStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)
    started, go = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        started.set()
        assert go.wait(10)

    monkeypatch.setattr(archive, "extract", slow)
    unpacking = asyncio.create_task(store.unpack(DIGEST))
    await asyncio.to_thread(started.wait, 10)
    await store.delete(DIGEST)
    go.set()
    with pytest.raises(NotFound):
        await unpacking
    assert not (root / "trees" / HEX).exists()


async def test_what_a_killed_process_left_is_removed_at_open_and_whole_trees_stay(root: Path) -> None:
    store = ArtifactStore(root)
    await store.open()
    await put(store)
    tree = await store.unpack(DIGEST)
    await store.close()
    (root / "tmp" / "put-1").write_bytes(b"half")
    (root / "tmp" / "tree-1" / "deep").mkdir(parents=True)
    (root / "tmp" / "link").symlink_to(tree)

    await store.open()

    assert os.listdir(root / "tmp") == []
    assert (tree / "app.py").exists()
    await store.close()


async def test_trees_of_another_boot_are_unpacked_anew(root: Path) -> None:
    store = ArtifactStore(root)
    await store.open()
    await put(store)
    tree = await store.unpack(DIGEST)
    await store.close()
    (root / "trees" / ".boot").write_text("the day before")
    (tree / "app.py").write_bytes(b"")  # as a power failure may leave it

    await store.open()

    assert not tree.exists()
    assert (await store.unpack(DIGEST) / "app.py").read_bytes() == b"print('hello')\n"
    await store.close()


def overwrite(tree: Path) -> None:
    path = tree / "app.py"
    path.chmod(0o644)
    times = path.stat()
    path.write_bytes(b"print('hacked')"[: times.st_size].ljust(times.st_size))  # the size and the times stay
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(tree: Path) -> None:
    (tree / "app.py").unlink()
    (tree / "app.py").write_bytes(b"print('hello')\n")


def add_bytecode(tree: Path) -> None:
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "app.cpython-311.pyc").write_bytes(b"other code")


def link(tree: Path) -> None:
    (tree / "app.py").unlink()
    (tree / "app.py").symlink_to("/etc/passwd")


@pytest.mark.parametrize("change", [overwrite, replace, add_bytecode, link, lambda tree: (tree / "app.py").unlink()])
@pytest.mark.parametrize("when", ["restart", "deploy"])
async def test_a_tree_that_is_not_as_it_was_unpacked_is_unpacked_anew(
    root: Path, when: str, change: Callable[[Path], None]
) -> None:
    store = ArtifactStore(root)
    await store.open()
    await put(store)
    tree = await store.unpack(DIGEST)
    before = sorted(os.listdir(tree))
    tree.chmod(0o755)  # by code that is not isolated from it
    change(tree)
    if when == "restart":
        await store.close()
        store = ArtifactStore(root)
        await store.open()

    assert await store.unpack(DIGEST, check=when == "deploy") == tree

    assert (tree / "app.py").read_bytes() == b"print('hello')\n"
    assert sorted(os.listdir(tree)) == before
    assert not (tree / "app.py").is_symlink()
    await store.close()


async def test_a_tree_that_did_not_change_is_used_again_after_a_restart(root: Path) -> None:
    store = ArtifactStore(root)
    await store.open()
    await put(store)
    before = (await store.unpack(DIGEST) / "app.py").stat().st_ino
    await store.close()
    store = ArtifactStore(root)
    await store.open()
    assert (await store.unpack(DIGEST) / "app.py").stat().st_ino == before
    await store.close()


async def test_the_files_of_a_tree_are_read_only(store: ArtifactStore) -> None:
    await put(store)
    tree = await store.unpack(DIGEST)
    assert not any(path.stat().st_mode & 0o222 for path in (tree, *tree.rglob("*")))


# Removing


async def test_deleting_removes_the_archive_and_the_tree(store: ArtifactStore, root: Path) -> None:
    await put(store)
    tree = await store.unpack(DIGEST)
    await store.delete(DIGEST)
    assert not store.has(DIGEST)
    assert not tree.exists()
    assert await store.sizes() == {}


async def test_collecting_keeps_what_is_named_and_what_was_used_lately(root: Path) -> None:
    clock = SettableClock(1_000_000.0)
    store = ArtifactStore(root, clock=clock)
    await store.open()
    bundles = {name: packed({name: name.encode()}) for name in ("kept", "asked", "new", "old", "bare")}
    digests = {name: digest_of(data) for name, data in bundles.items()}
    for name, data in bundles.items():
        await put(store, data)
        await store.unpack(digests[name])
        used = clock.now - (10 if name == "new" else 10_000)
        os.utime(root / f"{digests[name].removeprefix('sha256:')}.tar.gz", (used, used))
    assert store.has(digests["asked"])
    (root / f"{digests['bare'].removeprefix('sha256:')}.tar.gz").unlink()  # a tree without its archive

    removed = await store.collect({digests["kept"]}, min_age_s=3600)

    assert [artifact.digest for artifact in removed] == [digests["old"]]
    left = {digests[name].removeprefix("sha256:") for name in ("kept", "asked", "new")}
    assert {artifact.digest.removeprefix("sha256:") for artifact in await store.list()} == left
    assert {path.name for path in (root / "trees").iterdir()} == left | {f"{name}.seal" for name in left} | {".boot"}
    assert list(await store.collect(set(), min_age_s=0)) != []
    assert list(await store.list()) == []
    await store.close()


async def test_sizes_count_archives_and_trees(store: ArtifactStore) -> None:
    await put(store)
    assert await store.sizes() == {DIGEST: len(DATA)}
    await store.unpack(DIGEST)
    assert await store.sizes() == {DIGEST: len(DATA) + len(b"print('hello')\n") + 100_000}


async def test_a_bundle_that_was_asked_for_since_is_not_discarded(root: Path) -> None:
    clock = SettableClock(1_000_000.0)
    store = ArtifactStore(root, clock=clock)
    await store.open()
    await put(store)
    tree = await store.unpack(DIGEST)
    assert store.has(DIGEST)
    assert not await store.discard(DIGEST, asked_before=clock.now - 1)
    assert tree.exists()
    assert await store.discard(DIGEST, asked_before=clock.now)
    assert not tree.exists()
    assert not await store.discard(DIGEST, asked_before=clock.now)
    await store.close()


# Trouble


async def test_a_closed_store_says_so(root: Path) -> None:
    store = ArtifactStore(root)
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.read(DIGEST)
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.list()


async def test_a_place_that_cannot_be_a_directory_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ArtifactStore(tmp_path / "file" / "bundles")
    with pytest.raises(StoreUnavailable, match="Not a directory"):
        await store.open()
    await store.close()
