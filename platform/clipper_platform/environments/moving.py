"""What moving references mean now: a branch of a Git repository, a file at an address.

They are looked up at each deploy, so that a version keeps what they meant then.
"""

from __future__ import annotations

import asyncio
import base64
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from clipper.contract.credentials import mask
from clipper.contract.requirements import Requirement

__all__ = ["pinned", "resolve"]

LOOKUP_TIMEOUT_S: Final = 30.0


async def resolve(moving: Iterable[Requirement], environ: Mapping[str, str]) -> dict[str, str]:
    """What each reference means now: a commit, or the validators of a file. By address, without credentials.

    What cannot be looked up is left out: the build then says why.
    """
    moving = list(moving)
    found = await asyncio.gather(*(_meaning(r.url, environ) for r in moving))
    return {mask(r.url): meaning for r, meaning in zip(moving, found, strict=True) if meaning}


def pinned(requirement: Requirement, meanings: Mapping[str, str]) -> Requirement:
    """The requirement at the commit that its reference means."""
    commit = meanings.get(mask(requirement.url))
    if commit is None or not requirement.url.startswith("git+"):
        return requirement
    repository, _, fragment = _parts(requirement.url)
    url = f"git+{repository}@{commit}{fragment}"
    return replace(requirement, url=url, specification=requirement.specification.replace(requirement.url, url))


def _parts(url: str) -> tuple[str, str, str]:
    """Repository, reference and fragment of git+https://host/path@reference#fragment."""
    address, hash, fragment = url.removeprefix("git+").partition("#")
    parts = urlsplit(address)
    path, at, reference = parts.path.rpartition("@")
    repository = urlunsplit(parts._replace(path=path if at else parts.path))
    if parts.scheme == "file" and not repository.startswith("file://"):
        repository = f"file://{path if at else parts.path}"
    return repository, reference if at else "", hash + fragment


async def _meaning(url: str, environ: Mapping[str, str]) -> str:
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            if url.startswith("git+"):
                return await _commit(url, environ)
            return await asyncio.to_thread(_validators, url) if url.startswith("http") else ""
    except (OSError, ValueError):  # a TimeoutError is an OSError
        return ""


async def _commit(url: str, environ: Mapping[str, str]) -> str:
    repository, reference, _ = _parts(url)
    names = [f"refs/heads/{reference}", f"refs/tags/{reference}^{{}}", f"refs/tags/{reference}", reference]
    process = await asyncio.create_subprocess_exec(
        *("git", "ls-remote", "--", repository, *(names if reference else ["HEAD"])),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(environ),
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    commits = {name: commit for commit, _, name in (line.partition("\t") for line in output.decode().splitlines())}
    return next((commits[name] for name in (*names, "HEAD") if name in commits), "")


def _validators(url: str) -> str:
    """What HTTP says of the file's version (RFC 9110, section 8.8), and its length."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, fragment="")), method="HEAD")
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=LOOKUP_TIMEOUT_S) as answer:
        found = [answer.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")]
    return " ".join(value for value in found if value)
