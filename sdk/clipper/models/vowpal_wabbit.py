"""Vowpal Wabbit's binary models: a header with the version and the options that count for predictions.

vowpalwabbit/core/src/parse_regressor.cc, save_load_header
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Final

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import read_head
from clipper.models.sources import Source, quoted

__all__ = ["is_vowpal_wabbit", "read_vowpal_wabbit"]

_HEADER_BYTES: Final = 64 * 1024
_VERSION: Final = re.compile(rb"(\d{1,3}\.\d{1,3}\.\d{1,3})\0")
# Options whose prediction is a class.
_CLASSES: Final = ("--oaa", "--ect", "--csoaa", "--log_multi", "--recall_tree", "--plt", "--cb")
# Options whose example is several lines: the shared one, and one for each action.
_MULTILINE: Final = ("_adf", "_ldf")
_NEWEST: Final = (9, 99)


def is_vowpal_wabbit(head: bytes) -> bool:
    return bool(len(head) > 8 and head[1:4] == b"\0\0\0" and _VERSION.match(head[4:]) and 6 <= head[0] <= 12)


def read_vowpal_wabbit(path: Path) -> Model:
    """Raises ModelError for a header that is not whole, or of a version that is not known."""
    head = read_head(path, _HEADER_BYTES)
    match = _VERSION.match(head[4:])
    version = match[1].decode() if match else ""
    try:
        options = _options(head)
    except (struct.error, UnicodeDecodeError, ValueError):
        raise ModelError(
            "is no whole model of Vowpal Wabbit: its header ends too early; save it again", where=str(path)
        ) from None
    major, minor, _ = (int(part) for part in version.split("."))
    if (major, minor) > _NEWEST or major < 8:
        raise ModelError(f"is of Vowpal Wabbit {version}, which is not known: 8 and 9 are", where=str(path))
    words = options.split()
    multiline = any(word.endswith(_MULTILINE) for word in words)
    several = any(word in ("--probabilities", "--cb_explore") or word.endswith("_adf") for word in words)
    returns = "Any" if several or multiline else "int" if any(word in _CLASSES for word in words) else "float"
    newest = f">={version},<10" if major == 9 else ">=9,<10"
    return Model(
        framework="vowpalwabbit",
        kind=options.strip() or "regression",
        format="binary",
        function="predict",
        inputs=(Input(name="example", dtype="text", shape=()),),
        outputs=(Output(name="prediction", type=returns),),
        files=((path.name, path),),
        app=_source(path, multiline=multiline, returns=returns).text(),
        requirements=("vowpalwabbit" + newest,),
        version=version,
        smoke=None if multiline else {"example": "| a:1"},
    )


def _options(head: bytes) -> str:
    """The options that it was trained with. Raises struct.error or ValueError where the header ends too early."""
    at = 0

    def number() -> int:
        nonlocal at
        (value,) = struct.unpack_from("<I", head, at)
        at += 4
        if value > len(head):
            raise ValueError("longer than the header")
        return int(value)

    for _ in range(2):  # the version, and the model's name
        length = number()
        at += length
    struct.unpack_from("<cff", head, at)
    at += 9  # a mark, and the least and the greatest label
    number()  # bits of the table
    number()  # topics of lda
    for _ in range(2):  # n-grams and skips
        count = number()
        at += 3 * count
    length = number()
    text = head[at : at + length]
    if len(text) < length:
        raise ValueError("longer than the header")
    return text.rstrip(b"\0").decode()


def _source(path: Path, *, multiline: bool, returns: str) -> Source:
    one = "line.splitlines()" if multiline else "line"
    return Source(
        doc=f"Serves {path.name}, a model of Vowpal Wabbit. An example is text in its own format, without a label.",
        libraries=["import vowpalwabbit"],
        init=[
            f"weights = str(HERE / {quoted(path.name)})",
            "self.model = vowpalwabbit.Workspace(initial_regressor=weights, testonly=True, quiet=True)",
        ],
        parameters=[("example", "list[str]")],
        returns=f"list[{returns}]",
        body=[f"return [self.model.predict({one}) for line in example]"],
    )
