"""The command `clip`: runs one command line and turns failures into messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import click

from clipper.cli.commands import clip
from clipper.cli.completion import COMPLETE_VARIABLE, answer
from clipper.cli.console import FAIL, Output
from clipper.cli.problems import CommandFailed, as_document, show
from clipper.contract.rules import SpecError
from clipper.errors import ClipperError

__all__ = ["main", "run"]

FAILED, INTERRUPTED = 1, 130


def run() -> None:
    """Entry point of the script: `main`, then exit. A broken pipe is no error message."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a locale without ✓ must not fail a command
    # Where click is installed, httpx loads a command line of its own: 0.13 s of CPU. None means that there is
    # no such module, which httpx handles. No other code of this process uses it.
    cast(dict[str, Any], sys.modules).setdefault("httpx._main", None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _terminated)
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
    sys.exit(code)


class Terminated(KeyboardInterrupt):
    """A signal that ends the command as Ctrl-C does: a deploy that nobody watches any more is cancelled."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _terminated(number: int, _frame: object) -> NoReturn:
    raise Terminated(number)


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code: 0, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C."""
    # Read here, since a usage error is found before any command runs.
    wants_json = "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        code = _run(list(arguments))
    except BrokenPipeError:
        _abandon_stdout()
        return FAILED
    except Terminated as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):  # click's own: Ctrl-C at a question
        return INTERRUPTED
    except click.exceptions.Exit as end:  # help, --version
        return end.exit_code
    except SystemExit as end:  # rich when its pipe breaks
        return end.code if isinstance(end.code, int) else FAILED
    except click.UsageError as error:
        return _usage(error, Output(json=wants_json))
    except UnicodeEncodeError as error:  # bytes that the locale's encoding does not have
        hint = "Run it in a UTF-8 locale, as in LC_ALL=C.UTF-8"
        _report(
            CommandFailed(f"An argument is not text in this locale: {error.reason}", hint=hint), Output(json=wants_json)
        )
        return FAILED
    except (ClipperError, CommandFailed, SpecError) as error:
        _report(error, Output(json=wants_json))
        return FAILED
    return code if isinstance(code, int) else 0


def _run(arguments: list[str]) -> object:
    """What the command returns: its exit code, or None."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        return answer(clip, instruction)
    # Not `clip.main()`, which turns exceptions into messages and exit codes of its own.
    with clip.make_context("clip", arguments) as context:
        return clip.invoke(context)


def _report(error: Exception, out: Output) -> None:
    if out.json:
        out.document(as_document(error))
    else:
        show(error, out)


def _usage(error: click.UsageError, out: Output) -> int:
    """Show a mistake in the command line and return its exit code."""
    command = error.ctx.command_path if error.ctx is not None else "clip"
    message = " ".join(error.format_message().split())
    if out.json:
        out.document({"error": {"code": "usage", "message": message, "hint": f"{command} --help"}})
    elif isinstance(error, click.exceptions.NoArgsIsHelpError):  # a group alone, as in `clip key`: its help
        sys.stderr.write(f"{error.format_message()}\n")
    else:
        out.note((f"{FAIL} ", "red bold"), (message, "bold"))
        out.note(("  → ", "cyan"), f"{command} --help")
    return error.exit_code


def _abandon_stdout() -> None:
    """Discard buffered output: the reader is gone, and Python must not report that at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    run()
