"""Payload bytes to arguments and return values to payload bytes, for one function.

Decoders and encoders are built once, and the choice for a content type or an `Accept` value is remembered, so that an
invocation costs one dictionary look-up before msgspec's own work.

NaN and infinities: JSON has none, so a JSON request with them is malformed, and a return value with them cannot be
encoded as JSON. MessagePack and npy carry them in both directions.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, get_origin

import msgspec

from clipper.contract.accept import Accept
from clipper.contract.media_types import FORM, JSON, MSGPACK, MULTIPART, NPY, NPY_EXTENSION, PNG
from clipper.contract.spec import nearest
from clipper.contract.wire import Item, Status
from clipper_runtime.content_negotiation import canonical
from clipper_runtime.decoding import DecodeStruct, json_decoder, msgpack_decoder
from clipper_runtime.file_values import image_bytes
from clipper_runtime.hints import is_image, is_numpy, parts_of, plain_type
from clipper_runtime.json_schemas import parameters_schema, returns_schema
from clipper_runtime.pydantic_types import dataclass_writer
from clipper_runtime.raw_bodies import RawBodies
from clipper_runtime.rejected import Rejected
from clipper_runtime.schema import Signature
from clipper_runtime.type_hooks import build, plain, plain_or_array, plain_with_nan
from clipper_runtime.value_forms import Encode, other_forms
from clipper_runtime.whole_numbers import with_whole_numbers

__all__ = ["Codec", "Rejected"]

# Clients choose these headers, so the number of remembered values is bounded.
_MAX_REMEMBERED = 64

Decode = Callable[[bytes | memoryview], tuple[Any, ...]]
_content_types = attrgetter("content_type")


class Codec:
    """Decodes the arguments and encodes the values of one function.

    An array of an unbatched function is a view of its payload, without a copy. Arrays of a batched function are
    copies: a failed batch is decoded again from the same payloads, and user code may have changed its arrays.
    """

    def __init__(self, signature: Signature, *, batched: bool) -> None:
        self._signature = signature
        self._batched = batched
        self._json_decode = json_decoder(signature)
        self._msgpack_decode = msgpack_decoder(signature, self._read_extension)
        json = msgspec.json.Encoder(enc_hook=plain)
        self._encode_one = json.encode
        self._encode_lines = json.encode_lines
        self._encode_msgpack = msgspec.msgpack.Encoder(enc_hook=plain_or_array).encode
        write = dataclass_writer(signature.returns)
        if write is not None:
            self._encode_one = lambda value: json.encode(write(value))
            self._encode_lines = lambda values: json.encode_lines(write(list(values)))
            encode = self._encode_msgpack
            self._encode_msgpack = lambda value: encode(write(value))
        self._defaults = tuple(p.default for p in signature.parameters[1:])
        self._names = tuple(p.name for p in signature.parameters)
        self._getters = [attrgetter(name) for name in self._names]
        body = signature.body_parameter
        self._body_type = plain_type(body.type) if body is not None else None
        self._raw_bodies = RawBodies(body)
        self._decoders: dict[str, Decode] = {}
        self._encoders: dict[str, Encode] = {}
        # Bound once, so that `is` tells whether a batch has the usual form.
        self._from_json: Decode = self._decode_json
        self._to_json: Encode = self._write_json
        self._to_json_or_image: Encode = self._write_json_or_image

    @property
    def content_types(self) -> list[str]:
        """Media types of a request that this function takes."""
        found = [JSON, MSGPACK]
        if self._takes_array():
            found.append(NPY)
        return [*found, *self._raw_bodies.content_types, FORM, MULTIPART]

    def schema(self) -> dict[str, Any]:
        """The schema that `Ready` publishes: of the arguments and of the value, with the request's content types."""
        parameters = {**parameters_schema(self._signature), "title": "Parameters"}
        if self._signature.doc:
            parameters["description"] = self._signature.doc
        returns = returns_schema(self._signature)
        return {"parameters": parameters, "returns": returns, "content_types": self.content_types}

    # Requests

    def decode(self, content_type: str, payload: bytes | memoryview) -> tuple[Any, ...]:
        """The arguments in the order of the parameters. Raises Rejected."""
        return self._decoder(content_type)(payload)

    def arguments(self, items: Sequence[Item], payloads: Sequence[memoryview]) -> Sequence[Any]:
        """The arguments of one call: of the only item, or where the function is batched a list for each parameter.

        JSON for all items takes one third of the time of decoding them one by one. Raises the error of the first bad
        payload; the caller then decodes one by one to find the bad ones.
        """
        content_type = items[0].content_type
        decode = self._decoders.get(content_type) or self._decoder(content_type)
        if not self._batched:
            return decode(payloads[0])
        if len(items) > 1 and not alike(_content_types, items):
            kinds = map(_content_types, items)
            return as_columns([self.decode(kind, payload) for kind, payload in zip(kinds, payloads, strict=True)])
        if decode is self._from_json:
            structs = list(map(self._json_decode, payloads))
            return [list(map(get, structs)) for get in self._getters]
        return as_columns(list(map(decode, payloads)))

    def _decoder(self, content_type: str) -> Decode:
        decode = self._decoders.get(content_type)
        if decode is None:
            decode = self._choose_decoder(content_type)
            if len(self._decoders) < _MAX_REMEMBERED and not content_type.startswith(MULTIPART):  # each has a boundary
                self._decoders[content_type] = decode
        return decode

    def _choose_decoder(self, content_type: str) -> Decode:
        kind, charset = canonical(content_type)
        if kind in ("", JSON):
            if charset not in ("", "utf-8", "utf8", "us-ascii"):
                raise Rejected(Status.UNSUPPORTED_MEDIA_TYPE, f"JSON must be UTF-8, not {charset}")
            return self._from_json
        if kind == MSGPACK:
            return self._decode_msgpack
        if kind == NPY and self._takes_array():
            return self._decode_npy
        if kind in (FORM, MULTIPART):
            return partial(self._decode_form, content_type)
        if (read := self._raw_bodies.reader(kind, charset)) is not None:
            return lambda payload: (read(bytes(payload)), *self._defaults)
        known = ", ".join(self.content_types)
        raise Rejected(
            Status.UNSUPPORTED_MEDIA_TYPE, f"content type {kind!r} is not taken; this function takes {known}"
        )

    def _decode_form(self, content_type: str, payload: bytes | memoryview) -> tuple[Any, ...]:
        from clipper_runtime.forms import form_as_json

        try:
            document = form_as_json(content_type, payload, {p.name: p.type for p in self._signature.parameters})
        except ValueError as error:
            raise Rejected(Status.MALFORMED, str(error)) from None
        try:
            return self._from_json(document)
        except Rejected as error:
            if canonical(content_type)[0] == FORM:
                error.message += "; curl -d sends a form, unless it is called with -H 'Content-Type: application/json'"
            raise

    def _decode_json(self, payload: bytes | memoryview) -> tuple[Any, ...]:
        try:
            return msgspec.structs.astuple(self._json_decode(payload if len(payload) else b"{}"))
        except Exception as error:  # noqa: BLE001 - every error becomes a Rejected
            whole = with_whole_numbers(payload, error, msgspec.json)
            if whole is None:
                raise self._request_error(error, "JSON") from None
        return self._decode_whole(self._json_decode, whole, "JSON")

    def _decode_msgpack(self, payload: bytes | memoryview) -> tuple[Any, ...]:
        try:
            return msgspec.structs.astuple(self._msgpack_decode(payload if len(payload) else b"\x80"))
        except Exception as error:  # noqa: BLE001 - as above
            whole = with_whole_numbers(payload, error, msgspec.msgpack)
            if whole is None:
                raise self._request_error(error, "MessagePack") from None
        return self._decode_whole(self._msgpack_decode, whole, "MessagePack")

    def _decode_whole(self, decode: DecodeStruct, document: bytes, form: str) -> tuple[Any, ...]:
        try:
            return msgspec.structs.astuple(decode(document))
        except Exception as error:  # noqa: BLE001 - as above
            raise self._request_error(error, form) from None

    def _read_extension(self, code: int, data: memoryview) -> Any:
        if code != NPY_EXTENSION or "numpy" not in sys.modules:
            raise Rejected(Status.MALFORMED, f"MessagePack extension type {code} is not one that this function takes")
        from clipper_runtime import arrays

        try:
            return arrays.load_npy(data, in_place=not self._batched)
        except ValueError as error:
            raise Rejected(Status.MALFORMED, str(error)) from None

    def _decode_npy(self, payload: bytes | memoryview) -> tuple[Any, ...]:
        from clipper_runtime import arrays

        try:
            array = arrays.load_npy(payload, in_place=not self._batched)
        except ValueError as error:
            raise Rejected(Status.MALFORMED, str(error)) from None
        kind = self._body_type
        try:
            value = array if kind is Any else build(kind, array)
        except ValueError as error:
            raise Rejected(Status.INVALID, f"{error} - at `$.{self._names[0]}`") from None
        return (value, *self._defaults)

    def _takes_array(self) -> bool:
        kind = self._body_type
        return "numpy" in sys.modules and (kind is Any or is_numpy(get_origin(kind) or kind))

    def _request_error(self, error: Exception, form: str) -> Rejected:
        if isinstance(error, Rejected):
            return error
        if isinstance(error, msgspec.ValidationError):
            return Rejected(Status.INVALID, self._explain(str(error)))
        if isinstance(error, RecursionError):
            return Rejected(Status.MALFORMED, f"the {form} is nested too deeply")
        if isinstance(error, UnicodeDecodeError):
            return Rejected(Status.MALFORMED, f"{form} is malformed: not valid UTF-8")
        if isinstance(error, msgspec.DecodeError):
            message = str(error)
            if not message.startswith(form):
                message = f"{form} is malformed: {message[:1].lower()}{message[1:]}"
            return Rejected(Status.MALFORMED, message)
        return Rejected(Status.INVALID, f"{type(error).__name__}: {error}")  # a user's __post_init__ or validator

    def _explain(self, message: str) -> str:
        """msgspec's message, always with a path, and with the nearest right name for an unknown argument."""
        missing = re.fullmatch(r"Object missing required field `(.*?)`(?: - at `(.*)`)?", message, re.DOTALL)
        if missing:
            return f"missing required argument - at `{missing[2] or '$'}.{missing[1]}`"
        unknown = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `(.*)`)?", message, re.DOTALL)
        if unknown:
            guess = nearest(unknown[1][:100], self._names) if not unknown[2] else None
            hint = f", did you mean `{guess}`?" if guess else ""
            word = "key" if unknown[2] else "argument"
            return f"unknown {word}{hint} - at `{unknown[2] or '$'}.{unknown[1][:200]}`"
        return message if " - at `" in message else f"{message} - at `$`"

    # Values

    def encode(self, value: Any, accept: str) -> tuple[bytes, str]:
        """A value's bytes and content type, in the form that `accept` prefers. Raises Rejected."""
        return (self._encoders.get(accept) or self._encoder(accept))(value)

    def encode_batch(self, values: Sequence[Any], accept: str) -> tuple[list[bytes], str] | None:
        """The values' bytes where `accept` means JSON and no value contains a null, else None.

        msgspec writes NaN as null. Raises the error of the first value without a JSON form; the caller then encodes
        one by one.
        """
        encode = self._encoders.get(accept) or self._encoder(accept)
        if encode is not self._to_json and (
            encode is not self._to_json_or_image or any(map(is_image, set(map(type, values))))
        ):
            return None
        # One call that writes a line per value costs less than a call per value. msgspec writes JSON without line
        # ends; only a user's msgspec.Raw may contain one, and then the number of lines is wrong.
        text = self._encode_lines(values)
        bodies = text.split(b"\n")
        bodies.pop()  # what follows the last line's end
        return None if b"null" in text or len(bodies) != len(values) else (bodies, JSON)

    def _encoder(self, accept: str) -> Encode:
        encode = self._encoders.get(accept)
        if encode is None:
            encode = self._choose_encoder(accept)
            if len(self._encoders) < _MAX_REMEMBERED:
                self._encoders[accept] = encode
        return encode

    def _choose_encoder(self, accept: str) -> Encode:
        wanted = Accept.parse(accept)
        best = wanted.best
        if best is not None and wanted.preference(JSON) == best:
            return self._to_json if best[1] == 2 or not self._may_return_images else self._to_json_or_image
        if best is not None and wanted.preference(MSGPACK) == best and (best[1] == 2 or not self._may_return_images):
            return self._to_msgpack

        def negotiate(value: Any) -> tuple[bytes, str]:
            forms = [(wanted.preference(kind), to_bytes) for kind, to_bytes in self._forms(value, wanted)]
            allowed = [(preference, to_bytes) for preference, to_bytes in forms if preference is not None]
            if not allowed:
                raise Rejected(
                    Status.NOT_ACCEPTABLE,
                    f"a value of type {type(value).__name__} has no form that Accept: {accept[:200]} allows",
                )
            try:
                return max(allowed, key=itemgetter(0))[1](value)  # the first of equals
            except (ValueError, OSError) as error:
                raise _value_error(error, value) from None

        return negotiate

    def _forms(self, value: Any, wanted: Accept) -> list[tuple[str, Encode]]:
        """The forms that a value has, the default first: of an image, those of images."""
        plain: list[tuple[str, Encode]] = [(JSON, self._to_json), (MSGPACK, self._to_msgpack)]
        others = list(other_forms(value, wanted))
        return others + plain if is_image(type(value)) else plain + others

    @property
    def _may_return_images(self) -> bool:
        """Whether a value can be an image of Pillow, which is no JSON unless it is asked for by name."""
        hint = self._signature.returns
        return "PIL.Image" in sys.modules and (hint is Any or any(map(is_image, parts_of(hint))))

    def _write_json_or_image(self, value: Any) -> tuple[bytes, str]:
        """Where the client takes anything: JSON, and PNG for an image."""
        if not is_image(type(value)):
            return self._write_json(value)
        try:
            return image_bytes(value), PNG
        except (ValueError, OSError) as error:
            raise _value_error(error, value) from None

    def _write_json(self, value: Any) -> tuple[bytes, str]:
        try:
            data = self._encode_one(value)
            # msgspec writes NaN and infinities as null: the value is searched only where a null was written.
            if b"null" in data:
                _refuse_non_finite(value)
        except Exception as error:  # noqa: BLE001 - every error becomes a Rejected
            raise _value_error(error, value) from None
        return data, JSON

    def _to_msgpack(self, value: Any) -> tuple[bytes, str]:
        try:
            return self._encode_msgpack(value), MSGPACK
        except Exception as error:  # noqa: BLE001 - every error becomes a Rejected
            raise _value_error(error, value) from None


def alike(field: Callable[[Item], str], items: Sequence[Item]) -> bool:
    """Whether the field is the same in all items."""
    values = list(map(field, items))
    return values.count(values[0]) == len(values)


def as_columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """For each parameter the list of its arguments."""
    return [list(column) for column in zip(*rows, strict=True)]


def _value_error(error: Exception, value: Any) -> Rejected:
    if isinstance(error, Rejected):
        return error
    if isinstance(error, OverflowError) and "ints" in str(error):
        return Rejected(
            Status.UNENCODABLE,
            "the return value contains a whole number of more than 64 bits, which MessagePack cannot carry: return it "
            "as text, or ask for application/json",
        )
    if isinstance(error, RecursionError):
        return Rejected(Status.UNENCODABLE, "the return value is nested too deeply, or contains itself")
    return Rejected(Status.UNENCODABLE, f"the return value, of type {type(value).__name__}, cannot be encoded: {error}")


def _refuse_non_finite(value: Any) -> None:
    """Raise Rejected if a float anywhere in `value` is NaN or infinite."""
    waiting = [msgspec.to_builtins(value, enc_hook=plain_with_nan)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float):
            if not math.isfinite(one):
                raise Rejected(
                    Status.UNENCODABLE,
                    f"the return value contains {one}, which JSON cannot express: return None or a finite number in "
                    "its place, or ask for application/msgpack",
                )
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
