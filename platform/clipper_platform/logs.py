"""The platform's own log: one line per record, as text for people or JSON for machines, ids as fields.

Modules log through `logging.getLogger(__name__)` and pass ids as `extra={"project": …, "request_id": …}`; only the
composition root calls `configure`.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec

__all__ = ["JsonFormatter", "LogFormat", "TextFormatter", "configure", "escape"]

LogFormat = Literal["text", "json"]

# What every LogRecord has; all else on it came in through `extra`.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

# Line breaks and other control characters inside a value would let a client forge log lines.
_CONTROL: Final = {c: f"\\x{c:02x}" for c in [*range(32), *range(127, 160)]} | {
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def escape(text: str) -> str:
    """`text` on one line, its control characters written as escapes."""
    return text.translate(_CONTROL)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD and v is not None}


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO  control.deployer  version 3 answers  project=digits`."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("clipper_platform.")
        parts = [f"{_timestamp(record)} {record.levelname:<7} {name}", escape(record.getMessage())]
        parts += [" ".join(f"{key}={self._value(value)}" for key, value in _fields(record).items())]
        line = "  ".join(part for part in parts if part)
        if record.exc_info:
            # Only a traceback may span lines; indented, so that it cannot be taken for records.
            line += "\n" + "\n".join("    " + row for row in self.formatException(record.exc_info).splitlines())
        return line

    @staticmethod
    def _value(value: object) -> str:
        text = escape(str(value))
        return f'"{text}"' if " " in text or not text else text


class JsonFormatter(logging.Formatter):
    """One JSON object per record: ts, level, logger, message, the fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            **_fields(record),
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(entry, enc_hook=str).decode()
        except (UnicodeEncodeError, TypeError):  # a lone surrogate, or a mapping with keys that are not strings
            safe = {k: str(v).encode(errors="backslashreplace").decode() for k, v in entry.items()}
            return msgspec.json.encode(safe).decode()


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that configuring again replaces it and leaves other people's handlers alone."""


def configure(level: str = "info", format: LogFormat = "text", stream: TextIO | None = None) -> None:
    """Send all records from `level` on to `stream` (stderr). Calling again replaces the earlier configuration.

    Raises ValueError for an unknown level or format.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is not known: use debug, info, warning or error")
    if format not in ("text", "json"):
        raise ValueError(f"log format {format!r} is not known: use text or json")
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    # Chatty at info and of no use to an operator.
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
