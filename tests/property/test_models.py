"""Whatever bytes a file holds, reading it gives a model or a ModelError: no other error, no code run, no hanging."""

from __future__ import annotations

import ast
import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from clipper.models.byte_stream import ByteStream
from clipper.models.description import ModelError
from clipper.models.names import identifiers
from clipper.models.pickled import PickleProblem, read_pickle
from clipper.models.protobuf import Message, WireError
from clipper.models.prototext import PrototextError, read_prototext
from clipper.models.reading import read_model
from clipper.models.sources import listed, prose, quoted
from clipper.models.ubjson import UbjsonError, read_ubjson

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(
    path
    for path in [*(ROOT / "tests/support/model_files").iterdir(), *(ROOT / "examples").glob("*/*.*")]
    if path.suffix in (".joblib", ".pkl", ".ubj", ".json", ".txt", ".pt", ".pt2", ".pth", ".onnx", ".vw")
)


def read(data: bytes, suffix: str) -> None:
    """Reads the bytes as a file of this ending. Raises anything but a refusal in words of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"model{suffix}"
        path.write_bytes(data)
        try:
            model = read_model(path)
        except ModelError as refused:
            refusal = str(refused)
        else:
            ast.parse(model.app)
            return
    assert "cannot be read as a model (" not in refusal  # what a reader did not foresee


@given(st.sampled_from(SAMPLES), st.floats(min_value=0, max_value=1))
def test_a_file_that_was_cut_anywhere_gives_a_model_or_a_refusal(path: Path, share: float) -> None:
    data = path.read_bytes()
    read(data[: int(len(data) * share)], path.suffix)


@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=20))
def test_a_file_with_other_bytes_anywhere_gives_a_model_or_a_refusal(
    path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    read(bytes(data), path.suffix)


@given(st.binary(min_size=1, max_size=2000), st.sampled_from([".onnx", ".pkl", ".pt", ".json", ".bin"]))
def test_any_bytes_give_a_model_or_a_refusal(data: bytes, suffix: str) -> None:
    read(data, suffix)


@given(st.binary(max_size=1000))
def test_each_reader_of_bytes_raises_only_its_own_error(data: bytes) -> None:
    try:
        read_pickle(ByteStream(io.BytesIO(data)))
    except PickleProblem:
        pass
    try:
        read_ubjson(data)
    except UbjsonError:
        pass
    try:
        for _, _, value in Message.of(data).fields():
            if isinstance(value, Message):
                list(value.fields())
    except WireError:
        pass


@given(st.text(max_size=300))
def test_the_reader_of_prototext_raises_only_its_own_error(text: str) -> None:
    try:
        read_prototext(text)
    except PrototextError:
        pass


@given(st.lists(st.text(max_size=20), max_size=10))
def test_names_become_different_names_of_python(names: list[str]) -> None:
    found = identifiers(names)
    assert len(set(found)) == len(names)
    assert all(name.isidentifier() for name in found)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_of_a_file_stay_texts_in_the_source(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text
    assert ast.literal_eval(listed([text])) == [text]
    assert len(ast.parse(f'"""{prose(text)}"""\n# {prose(text)}\nx = 1').body) == 2
