"""What a platform stores, as `clip doctor` shows and frees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipper.cli.console import OK, Output
from clipper.cli.options import confirm
from clipper.cli.problems import CommandFailed
from clipper.cli.text import plural, size
from clipper.errors import Forbidden, NotFound, Unauthenticated

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["clean", "show"]

Storage = Mapping[str, Mapping[str, int]]


def show(out: Output, control: ControlClient, *, hint: bool = False) -> dict[str, Any] | None:
    """Print a table of what there is and, with `hint`, how to free what is unused. Returns what was read: None if the
    key lacks the scope `admin`, or the platform is older than this command."""
    try:
        storage = control.storage()
    except (Unauthenticated, Forbidden, NotFound):
        return None
    out.line()
    out.table(
        ["STORED", "COUNT", "SIZE", "UNUSED", "UNUSED SIZE"],
        [
            [kind, str(of["count"]), size(of["bytes"]), *_unused(of["unused_count"], of["unused_bytes"])]
            for kind, of in storage.items()
        ],
        right=["COUNT", "SIZE", "UNUSED", "UNUSED SIZE"],
    )
    unused = sum(of["unused_bytes"] for of in storage.values())
    if hint and unused:
        out.line(("  → ", "cyan"), f"To free {size(unused)}: clip doctor --clean")
    return storage


def clean(out: Output, control: ControlClient, storage: Storage | None, *, yes: bool) -> dict[str, Any]:
    """Free what is unused, after a question unless `yes`. Returns what was removed. Raises CommandFailed."""
    if storage is None:
        raise CommandFailed(
            "This key may not clean the platform", hint="Use one with the scope admin", code="forbidden"
        )
    unused = {kind: {"count": of["unused_count"], "bytes": of["unused_bytes"]} for kind, of in storage.items()}
    if not _count(unused):
        out.line()
        out.line("Nothing is unused.")
        return {kind: {"count": 0, "bytes": 0} for kind in storage}
    if not yes:
        confirm(out, f"Remove {_extent(unused)}?")
    removed = control.clean_storage()
    out.line()
    out.line((f"{OK} ", "green"), f"Removed {_extent(removed)}" if _count(removed) else "Nothing is unused any more")
    return removed


def _unused(count: int, bytes: int) -> list[str]:
    return [str(count), size(bytes)] if count else ["", ""]


def _count(kinds: Storage) -> int:
    return sum(of["count"] for of in kinds.values())


def _extent(kinds: Storage) -> str:
    """`5 versions, 3 bundles and 1 environment (210 MB)`."""
    parts = [plural(of["count"], kind.removesuffix("s")) for kind, of in kinds.items() if of["count"]]
    words = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"{words} ({size(sum(of['bytes'] for of in kinds.values()))})"
