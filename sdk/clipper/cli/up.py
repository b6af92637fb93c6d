"""`clip up`: the platform in the foreground, and where it listens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from clipper.cli import platform_extra
from clipper.cli.console import Output
from clipper.cli.options import json_option, path
from clipper.cli.problems import CommandFailed
from clipper.contract.constants import DEFAULT_HOME, DEFAULT_HOST, DEFAULT_PORT

__all__ = ["banner", "up"]


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on.", show_default=DEFAULT_HOST)
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="PORT", help="0 takes a free one.", show_default=str(DEFAULT_PORT)
)
@click.option("--backend", type=click.Choice(["process", "docker"]), help="Where replicas run.", show_default="process")
@click.option("--store", metavar="URL", help="Metadata: sqlite:///… or redis://….", show_default="clipper.db in home")
@click.option(
    "--home", type=path(), metavar="DIR", help="State of the platform.", show_default=f"CLIP_HOME, else {DEFAULT_HOME}"
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page that may call, as in http://localhost:3000; may be repeated.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    metavar="LEVEL",
    help="debug, info, warning or error.",
    show_default="info",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of the log.", show_default="text")
@json_option
def up(out: Output, **flags: Any) -> int:
    """Run the platform here, until Ctrl-C."""
    run = platform_extra.load("up")
    result: Mapping[str, Any] = run(flags, lambda listening: banner(out, listening))
    if error := result.get("error"):
        raise _failed(dict(error))
    return int(result["exit_code"])


def _failed(error: dict[str, Any]) -> CommandFailed:
    """A setting that is not allowed, a platform that runs already, a port that is taken; with what to do about it."""
    code, message, hint = error.pop("code"), error.pop("message"), error.pop("hint", "")
    if code == "conflict" and not hint:
        if "port" in error:
            hint = f"Use another port: clip up --port {int(error['port']) + 1}"
        else:
            hint = "Use the one that runs (clip doctor shows it), or give another home: clip up --home DIR"
    if code == "store_unavailable" and not hint:
        hint = "Nothing was started. Start it again when the store is there, or name another one: clip up --store URL"
    return CommandFailed(message, hint=hint, code=code, **error)


def banner(out: Output, listening: Mapping[str, str]) -> None:
    """Print that the platform listens, and the next command to type.

    `listening` holds the `url` (its port is the real one where 0 was asked for), `store`, `backend` and `home`.
    """
    facts = {**listening, "store": without_password(listening["store"])}
    if out.json:
        out.event({"event": "listening", **facts})
        return
    out.line(("Clipper", "bold"), " listens on ", (facts["url"], "cyan bold"))
    out.line(("  backend  ", "dim"), facts["backend"])
    out.line(("  store    ", "dim"), facts["store"])
    out.line(("  home     ", "dim"), facts["home"])
    out.line(
        ("  next     ", "dim"), ("clip init demo && clip deploy demo", "cyan"), ("   (in another terminal)", "dim")
    )
    out.line(("  stop     ", "dim"), "Ctrl-C")


def without_password(url: str) -> str:
    """`redis://:secret@host/0` as `redis://***@host/0`: a terminal's scrollback is no place for it."""
    scheme, separator, rest = url.partition("://")
    rest = re.sub(r"(?<=[?&])(sentinel_password=)[^&]*", r"\1***", rest)
    if not separator or "@" not in rest:
        return f"{scheme}{separator}{rest}"
    return f"{scheme}://***@{rest.rpartition('@')[2]}"
