"""The command `clip`: its commands, and the one place where failures become words and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from clipper.cli import config, deploy, dev, doctor, init, invoke, logs, look, manage, policy, top, up
from clipper.cli.console import FAIL, Output
from clipper.cli.problems import CommandFailed, as_document, show
from clipper.errors import ClipperError
from clipper.spec import SpecError

__all__ = ["app", "main", "run", "version"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="clip",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Deploy Python functions and models, and call them.",
    epilog="Start here: clip init demo, then clip up in another terminal, then clip deploy demo.",
)

_BUILD, _LOOK, _CHANGE = "Build and call", "Look", "Change and manage"
_COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "init": (init.init, _BUILD),
    "up": (up.up, _BUILD),
    "deploy": (deploy.deploy, _BUILD),
    "dev": (dev.dev, _BUILD),
    "invoke": (invoke.invoke, _BUILD),
    "list": (look.list_projects, _LOOK),
    "status": (look.status, _LOOK),
    "versions": (look.versions, _LOOK),
    "top": (top.top, _LOOK),
    "logs": (logs.logs, _LOOK),
    "explain": (policy.explain, _LOOK),
    "doctor": (doctor.doctor, _LOOK),
    "rollback": (manage.rollback, _CHANGE),
    "delete": (manage.delete, _CHANGE),
}
for _name, (_command, _panel) in _COMMANDS.items():
    app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(config.config_app, name="config", rich_help_panel=_LOOK)
app.add_typer(policy.policy_app, name="policy", rich_help_panel=_CHANGE)
app.add_typer(manage.keys_app, name="key", rich_help_panel=_CHANGE)
app.add_typer(manage.secrets_app, name="secret", rich_help_panel=_CHANGE)


def version() -> str:
    """Version of the installed distribution."""
    from importlib.metadata import version as installed

    return installed("clipper")


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"clip {version()}\n")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploy Python functions and models, and call them."""


def run() -> None:
    """Entry point of the script: `main`, then out, with broken pipes kept silent."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a locale without ✓ is no reason to fail
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code: 0, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C."""
    # Read here, not by the command: a usage error is found before any command runs.
    wants_json = "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        code = typer.main.get_command(app).main(args=list(arguments), prog_name="clip", standalone_mode=False)
    except BrokenPipeError:
        _abandon_stdout()
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as stop:  # completion, and rich when its pipe breaks
        return stop.code if isinstance(stop.code, int) else FAILED
    except typer.TyperException as error:
        return _usage(error, Output(json=wants_json))
    except (ClipperError, CommandFailed, SpecError) as error:
        _report(error, Output(json=wants_json))
        return FAILED
    return code if isinstance(code, int) else 0


def _report(error: Exception, out: Output) -> None:
    if out.json:
        out.document(as_document(error))
    else:
        show(error, out)


def _usage(error: typer.TyperException, out: Output) -> int:
    """Show a mistake in the command line and return its exit code."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "clip"
    message = " ".join(error.format_message().split())
    if out.json:
        out.document({"error": {"code": "usage", "message": message, "hint": f"{path} --help"}})
    elif type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(error.format_message() + "\n")  # `clip` or `clip key` alone: the message is the help
    else:
        out.note((f"{FAIL} ", "red bold"), (message, "bold"))
        out.note(("  → ", "cyan"), f"{path} --help")
    return int(getattr(error, "exit_code", USAGE))


def _abandon_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, without a complaint at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    run()
