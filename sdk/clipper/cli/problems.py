"""Failures of commands, rendered in one place: as lines on stderr or as a JSON document.

The CLI's own failures are `CommandFailed`; the others are the SDK's `ClipperError` and `SpecError`. Code that knows the
context of an error adds advice to it with `add_note`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipper.contract.rules import SpecError

if TYPE_CHECKING:
    from clipper.cli.console import Output

__all__ = ["CommandFailed", "advice", "as_document", "code_of", "show"]

_ADVICE = {
    "unauthenticated": "Set CLIP_API_KEY to a key of this platform. `clip config show` says where it was looked for.",
    "forbidden": "The key lacks the scope for this. Make one with `clip key create NAME --scope deploy`.",
    "queue_full": "The function is over its capacity. Try again later, or raise max_replicas or max_queued_requests.",
    "store_unavailable": "Calls of functions go on. `clip doctor` shows what the platform is missing.",
    "deadline_exceeded": "Allow more time with --timeout, or raise timeout_s of the function.",
}

# Details that are printed elsewhere or are in the message already.
_HIDDEN_DETAILS = frozenset({"log", "hint", "phase", "exception", "traceback", "home", "url", "pid", "port"})

_LOG_LINES = 20


class CommandFailed(Exception):
    """A command that cannot be carried out. `hint` says what to do; exit code 1."""

    def __init__(self, message: str, *, hint: str = "", code: str = "failed", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details
        if hint:
            self.add_note(hint)


def advice(error: BaseException) -> list[str]:
    """What to do about an error: the platform's hint and the notes on it, else the general advice for its code."""
    hint = _details(error).get("hint")
    found = [*([str(hint)] if hint else []), *getattr(error, "__notes__", ())]
    if not found and (general := _ADVICE.get(code_of(error))):
        found.append(general)
    return found


def code_of(error: BaseException) -> str:
    """The error code for scripts."""
    return "invalid_spec" if isinstance(error, SpecError) else str(getattr(error, "code", "failed"))


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, SpecError) else str(getattr(error, "message", "") or error)


def _details(error: BaseException) -> dict[str, Any]:
    found = getattr(error, "details", None)
    return dict(found) if isinstance(found, dict) else {}


def as_document(error: BaseException) -> dict[str, Any]:
    """`{"error": {"code", "message", "request_id"?, …details, "hint"?}}`."""
    body: dict[str, Any] = {"code": code_of(error), "message": _message(error)}
    if request_id := getattr(error, "request_id", None):
        body["request_id"] = request_id
    body |= {k: v for k, v in _details(error).items() if k not in body and v is not None}
    if hints := advice(error):
        body["hint"] = " ".join(hints)
    return {"error": body}


def show(error: BaseException, out: Output) -> None:
    """Print what failed and where, the last lines of its log, and what to do."""
    from clipper.cli.console import FAIL

    details = _details(error)
    out.note((f"{FAIL} ", "red bold"), (_message(error), "bold"), wrap=True)
    if details.get("phase"):
        out.note("  phase       ", str(details["phase"]))
    if details.get("exception"):
        out.note("  exception   ", str(details["exception"]))
    for key, value in details.items():
        if key not in _HIDDEN_DETAILS and isinstance(value, (str, int, float)):
            out.note(f"  {key:<11} ", str(value))
    lines = [line for entry in details.get("log") or () for line in str(entry).splitlines()]
    if lines:
        out.note(f"  The last lines of the {'build' if details.get('phase') == 'environment' else 'replica'}'s log:")
        for line in lines[-_LOG_LINES:]:
            out.note(("  │ ", "dim"), line)
    for hint in advice(error):
        out.note(("  → ", "cyan"), hint, wrap=True)
    if (request_id := getattr(error, "request_id", None)) is not None:
        out.note((f"  {code_of(error)}, request {request_id}", "dim"))
