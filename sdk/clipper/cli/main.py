"""The command `clip`: from a line to what it does, and the one place where failures become words and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from clipper.cli.commands import find
from clipper.cli.console import FAIL, Output
from clipper.cli.plain import read
from clipper.cli.problems import CommandFailed, UsageProblem, as_document, show
from clipper.contract.spec import SpecError
from clipper.errors import ClipperError

__all__ = ["main", "print_version", "run"]

FAILED, INTERRUPTED = 1, 130


def print_version() -> None:
    from clipper.contract.version import VERSION

    sys.stdout.write(f"clip {VERSION}\n")


def run() -> None:
    """Entry point of the script: `main`, then out, with broken pipes kept silent."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a locale without ✓ is no reason to fail
    # Where click is installed, as with the platform, httpx loads a command line of its own: 0.13 s of CPU. None says
    # that there is no such module, which httpx is prepared for. Here only: in this process nobody else uses it.
    cast(dict[str, Any], sys.modules).setdefault("httpx._main", None)
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
        code = _run(list(arguments))
    except BrokenPipeError:
        _abandon_stdout()
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:  # completion, and rich when its pipe breaks
        return stop.code if isinstance(stop.code, int) else FAILED
    except UsageProblem as problem:
        return _usage(problem, arguments, Output(json=wants_json))
    except (ClipperError, CommandFailed, SpecError) as error:
        _report(error, Output(json=wants_json))
        return FAILED
    return code if isinstance(code, int) else 0


def _run(words: list[str]) -> object:
    """Do what the line says: read plainly where it is plain, else by typer, which has the words for help and mistakes.

    The exit code, if the command gave one.
    """
    if words == ["--version"]:
        print_version()
        return 0
    command, named = find(words)
    if command is not None and "_CLIP_COMPLETE" not in os.environ:
        function = command.load()
        values = read(function, words[named:])
        if values is not None:
            return function(**values)
    from clipper.cli import parsing

    return parsing.run(words)


def _report(error: Exception, out: Output) -> None:
    if out.json:
        out.document(as_document(error))
    else:
        show(error, out)


def _usage(problem: UsageProblem, arguments: Sequence[str], out: Output) -> int:
    """Show a mistake in the command line and return its exit code."""
    path = problem.path or " ".join(["clip", *arguments[: find(list(arguments))[1]]])
    message = " ".join(str(problem).split())
    if out.json:
        out.document({"error": {"code": "usage", "message": message, "hint": f"{path} --help"}})
    elif problem.is_help:
        sys.stderr.write(f"{problem}\n")
    else:
        out.note((f"{FAIL} ", "red bold"), (message, "bold"))
        out.note(("  → ", "cyan"), f"{path} --help")
    return problem.exit_code


def _abandon_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, without a complaint at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    run()
