"""`clip up`: the platform in the foreground, and what it says when it listens."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from clipper.cli.declare import Option
from clipper.cli.options import Json
from clipper.contract.constants import DEFAULT_HOME, DEFAULT_HOST, DEFAULT_PORT

__all__ = ["banner", "up"]


def up(
    host: Annotated[str | None, Option(help="Address to listen on.", show_default=DEFAULT_HOST)] = None,
    port: Annotated[
        int | None, Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.", show_default=str(DEFAULT_PORT))
    ] = None,
    backend: Annotated[
        Literal["process", "docker"] | None, Option(help="Where replicas run.", show_default="process")
    ] = None,
    store: Annotated[
        str | None,
        Option(metavar="URL", help="Metadata: sqlite:///… or redis://….", show_default="clipper.db in home"),
    ] = None,
    home: Annotated[
        Path | None,
        Option(metavar="DIR", help="State of the platform.", show_default=f"CLIP_HOME, else {DEFAULT_HOME}"),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        Option(metavar="ORIGIN", help="A web page that may call, as in http://localhost:3000; may be repeated."),
    ] = None,
    log_level: Annotated[Literal["debug", "info", "warning", "error"] | None, Option(show_default="info")] = None,
    log_format: Annotated[Literal["text", "json"] | None, Option(show_default="text")] = None,
    json: Json = False,
) -> int:
    """Run the platform here, until Ctrl-C."""
    from clipper.cli.console import Output

    out = Output(json=json)
    given = {
        "host": host,
        "port": port,
        "backend": backend,
        "store": store,
        "home": home,
        "cors_origins": tuple(cors_origin) if cors_origin else None,
        "log_level": log_level,
        "log_format": log_format,
    }
    return run({key: value for key, value in given.items() if value is not None}, out)


def run(flags: dict[str, Any], out: Any) -> int:
    """Serve until stopped; the exit code. Raises CommandFailed when the platform cannot start."""
    from clipper.cli.problems import CommandFailed

    main, settings_module, errors = _platform()
    try:
        settings = settings_module.Settings.load(**flags)
        return int(main.run(settings, on_listening=lambda **facts: banner(settings, out, **facts)))
    except errors.Conflict as error:
        raise _in_the_way(error) from error
    except (errors.ClipperError, ValueError) as error:
        raise CommandFailed(
            str(error), code=str(getattr(error, "code", "invalid_settings")), **getattr(error, "details", {})
        ) from error


def _platform() -> tuple[Any, Any, Any]:
    """The platform's main, settings and errors. By name: the SDK imports no sibling, and works without this one."""
    from clipper.cli.problems import CommandFailed

    try:
        return (
            import_module("clipper_platform.main"),
            import_module("clipper_platform.settings"),
            import_module("clipper_platform.errors"),
        )
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"The platform is not installed here: there is no module {error.name!r}",
            hint="Install it: pip install 'clipper[platform]'",
            code="platform_missing",
        ) from None


def _in_the_way(error: Any) -> Exception:
    """A platform that runs already, or a port that something else holds, with what to do about it."""
    from clipper.cli.problems import CommandFailed

    details = dict(getattr(error, "details", {}))
    hint = str(details.pop("hint", ""))
    if not hint and "port" in details:
        hint = f"Use another port: clip up --port {int(details['port']) + 1}"
    elif not hint:
        hint = "Use the one that runs (clip doctor shows it), or give another home: clip up --home DIR"
    return CommandFailed(str(error), hint=hint, code="conflict", **details)


def banner(settings: Any, out: Any, *, url: str, **facts: Any) -> None:
    """Say that the platform listens: where, on what store and backend, and the next command to type.

    `settings` is the platform's Settings, `url` where it really listens (the port may have been 0).
    """
    home, store = str(settings.home), without_password(settings.store_url)
    if out.json:
        out.event(
            {"event": "listening", "url": url, "store": store, "backend": settings.backend, "home": home, **facts}
        )
        return
    out.line(("Clipper", "bold"), " listens on ", (url, "cyan bold"))
    out.line(("  backend  ", "dim"), settings.backend)
    out.line(("  store    ", "dim"), store)
    out.line(("  home     ", "dim"), home)
    out.line(
        ("  next     ", "dim"), ("clip init demo && clip deploy demo", "cyan"), ("   (in another terminal)", "dim")
    )
    out.line(("  stop     ", "dim"), "Ctrl-C")


def without_password(url: str) -> str:
    """`redis://:secret@host/0` as `redis://***@host/0`: a terminal's scrollback is no place for it."""
    scheme, separator, rest = url.partition("://")
    if not separator or "@" not in rest:
        return url
    return f"{scheme}://***@{rest.rpartition('@')[2]}"
