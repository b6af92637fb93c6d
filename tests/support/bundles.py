"""Archives for tests, made as tar and gzip would, and as they would not."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = ["chunks_of", "digest_of", "member", "packed", "tarred", "zipped"]

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
    return info, data


def tarred(members: Sequence[Member], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of the members, in this order, whatever they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def packed(files: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A bundle of plain files."""
    return zipped(tarred([member(name, data) for name, data in files.items()], form=form))


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def chunks_of(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    """The data as a request's body arrives."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
