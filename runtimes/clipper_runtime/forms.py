"""HTML forms as arguments: `multipart/form-data` with files and fields, and `application/x-www-form-urlencoded`.

A form becomes the JSON object that a caller would have sent, so that one decoder holds all rules. Loaded with the first
form.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_origin
from urllib.parse import parse_qsl

import msgspec

from clipper.contract.media_types import FORM
from clipper_runtime.content_negotiation import canonical
from clipper_runtime.file_values import is_bytes_like
from clipper_runtime.hints import plain_type

__all__ = ["form_as_json"]

# Of one form. Each has a cost of its own, however short it is.
_MAX_FIELDS: Final = 10_000
_MAX_PART_HEAD_BYTES: Final = 16 * 1024

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_NAME: Final = re.compile(r';\s*name\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.IGNORECASE)
_ESCAPES: Final = (('\\"', '"'), ("%22", '"'), ("%0D%0A", "\r\n"), ("\\\\", "\\"))  # of browsers and of clients
_SWITCHES: Final = {"true": b"true", "on": b"true", "yes": b"true", "1": b"true"} | {
    "false": b"false", "off": b"false", "no": b"false", "0": b"false",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    value: bytes


def form_as_json(content_type: str, payload: bytes | memoryview, types: Mapping[str, Any]) -> bytes:
    """The JSON object of a form's fields. `types`: of the parameters, by name.

    Into `str` goes the text; into `bytes`, files and images the content, as base64. Of other types the text is JSON
    (`3`, `[1, 2]`) where it can be, and else text (a date). A field that is there several times is a list. An empty one
    of a type that is not text is left out. Raises ValueError where it is no form.
    """
    fields: dict[str, list[_Field]] = {}
    for number, field in enumerate(_fields(content_type, bytes(payload))):
        if number >= _MAX_FIELDS:
            raise ValueError(f"the form has more than {_MAX_FIELDS} fields")
        fields.setdefault(field.name, []).append(field)
    members = []
    for name, found in fields.items():
        value = _value(name, found, plain_type(types.get(name, str)))
        if value:
            members.append(msgspec.json.encode(name) + b":" + value)
    return b"{" + b",".join(members) + b"}"


def _value(name: str, fields: list[_Field], kind: Any) -> bytes:
    """JSON; empty where the field is left out."""
    if kind is list or get_origin(kind) is list:
        entry = plain_type((getattr(kind, "__args__", None) or (Any,))[0])
        if (
            len(fields) == 1
            and entry is not str
            and not is_bytes_like(entry)
            and fields[0].value.lstrip().startswith(b"[")
        ):
            return _single(fields[0], kind)
        return b"[" + b",".join(filter(None, [_single(field, entry) for field in fields])) + b"]"
    if len(fields) > 1:
        raise ValueError(f"the form has the field `{name}` {len(fields)} times, and the argument is no list")
    return _single(fields[0], kind)


def _single(field: _Field, kind: Any) -> bytes:
    if is_bytes_like(kind):
        return b'"' + base64.b64encode(field.value) + b'"'
    try:
        text = field.value.decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"the form's field `{field.name}` is not text; only a parameter of bytes or a file takes it"
        ) from None
    if kind is str:
        return msgspec.json.encode(text)
    if not text.strip():
        return b""
    if kind is bool:
        return _SWITCHES.get(text.strip().lower()) or msgspec.json.encode(text)
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.json.encode(text)
    return text.encode()


def _fields(content_type: str, payload: bytes) -> Iterator[_Field]:
    if canonical(content_type)[0] == FORM:
        try:
            pairs = parse_qsl(payload.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
        except UnicodeDecodeError:
            raise ValueError("the form is not UTF-8") from None
        yield from (_Field(name, value.encode()) for name, value in pairs)
        return
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise ValueError("multipart/form-data without a boundary: let the client library set the Content-Type")
    yield from _parts(b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1", "replace"), payload)


def _parts(delimiter: bytes, payload: bytes) -> Iterator[_Field]:
    """RFC 2046 §5.1: each part follows a delimiter, and the last delimiter is followed by `--`."""
    data = b"\r\n" + payload
    at = data.find(delimiter)
    while at >= 0:
        start = at + len(delimiter)
        if data.startswith(b"--", start):
            return
        end = data.find(delimiter, start)
        if end < 0:
            break
        yield _part(data, start, end)
        at = end
    raise ValueError("the form ends within a part, or its boundary is not that of the Content-Type")


def _part(data: bytes, start: int, end: int) -> _Field:
    line_end = data.find(b"\r\n", start, end)
    head_end = data.find(b"\r\n\r\n", start, min(end, start + _MAX_PART_HEAD_BYTES))
    if line_end < 0 or head_end < 0:
        raise ValueError("a part of the form has no headers, or too many")
    headers = {}
    for line in data[line_end:head_end].decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    name = _NAME.search(headers.get("content-disposition", ""))
    if name is None:
        raise ValueError("a part of the form has no name")
    return _Field(_unescaped(name[1] or name[2] or ""), data[head_end + 4 : end])


def _unescaped(name: str) -> str:
    for escape, character in _ESCAPES:
        name = name.replace(escape, character)
    return name
