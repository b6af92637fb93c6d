"""The decoders of one function's arguments, with all checks that its hints ask for. Decided when it is loaded.

A function of plain types gets msgspec's own method. One that takes classes has nested objects checked for unknown keys,
and parameters whose hints mention pydantic are completed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from clipper_runtime.closed_objects import closed_shape
from clipper_runtime.schema import Signature
from clipper_runtime.type_hooks import build

__all__ = ["DecodeStruct", "json_decoder", "msgpack_decoder"]

DecodeStruct = Callable[[bytes | memoryview], Any]
ReadExtension = Callable[[int, memoryview], Any]
Complete = Callable[[msgspec.Raw, str], Any]


def json_decoder(signature: Signature) -> DecodeStruct:
    """Arguments as JSON to the struct of the signature. Raises msgspec's errors."""
    decode = msgspec.json.Decoder(signature.struct, dec_hook=build).decode
    shape = closed_shape(signature.struct)
    check = msgspec.json.Decoder(shape).decode if shape is not None else None
    return _complete(decode, check, {p.name: p.adapter.from_json for p in signature.parameters if p.adapter})


def msgpack_decoder(signature: Signature, read_extension: ReadExtension) -> DecodeStruct:
    """Arguments as MessagePack to the struct of the signature. Raises msgspec's errors."""
    decode = msgspec.msgpack.Decoder(signature.struct, dec_hook=build, ext_hook=read_extension).decode
    decode_any = msgspec.msgpack.Decoder(ext_hook=read_extension).decode
    shape = closed_shape(signature.struct)
    check = msgspec.msgpack.Decoder(shape).decode if shape is not None else None

    def completing(adapt: Callable[[Any, str], Any]) -> Complete:
        return lambda raw, name: adapt(decode_any(raw), name)

    adapters = {p.name: completing(p.adapter.from_python) for p in signature.parameters if p.adapter}
    return _complete(decode, check, adapters)


def _complete(decode: DecodeStruct, check: DecodeStruct | None, adapters: dict[str, Complete]) -> DecodeStruct:
    if check is None and not adapters:
        return decode

    def complete(payload: bytes | memoryview) -> Any:
        arguments = decode(payload)
        if check is not None:
            check(payload)
        for name, adapt in adapters.items():
            value = getattr(arguments, name)
            if type(value) is msgspec.Raw:  # else the default
                setattr(arguments, name, adapt(value, name))
        return arguments

    return complete
