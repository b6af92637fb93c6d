"""Directories of Hugging Face's transformers: `config.json`, weights in safetensors, and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import check_size, read_head, read_text
from clipper.models.packages import exactly, requirement
from clipper.models.sources import Source, quoted

__all__ = ["is_hugging_face", "read_hugging_face", "safetensors_header"]

_MAX_HEADER_BYTES: Final = 100 * 1024 * 1024  # as safetensors itself allows
# The end of an architecture's name -> the task of a pipeline, and the parameter that it takes.
_TASKS: Final = {
    "ForSequenceClassification": ("text-classification", "text"),
    "ForTokenClassification": ("token-classification", "text"),
    "ForMaskedLM": ("fill-mask", "text"),
    "ForCausalLM": ("text-generation", "prompt"),
    "LMHeadModel": ("text-generation", "prompt"),
    "ForImageClassification": ("image-classification", "image"),
    "Model": ("feature-extraction", "text"),
}
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
# Weights in other formats are pickles, or need another framework.
_OTHER_WEIGHTS: Final = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")


def is_hugging_face(directory: Path) -> bool:
    return (directory / "config.json").is_file() and not (directory / "MLmodel").exists()


def read_hugging_face(directory: Path) -> Model:
    """Raises ModelError for a directory without safetensors, and for an architecture whose task is not known."""
    where = str(directory)
    config = _object(directory / "config.json")
    _check_weights(directory)
    architecture = next((str(one) for one in config.get("architectures") or ()), "")
    task = next((found for ending, found in _TASKS.items() if architecture.endswith(ending)), None)
    if task is None:
        raise ModelError(
            f"has the architecture {architecture or 'nothing'}, of which it is not known how to call it: write a "
            "project around it with `clip init`",
            where=where,
        )
    name, parameter = task
    if parameter != "image" and not any((directory / one).exists() for one in _TOKENIZERS):
        raise ModelError("has no tokenizer: save it into the same directory, tokenizer.save_pretrained(…)", where=where)
    version = str(config.get("transformers_version", "")) or None
    lines = [
        exactly("transformers", version) or requirement("transformers"),
        requirement("torch", otherwise=">=2.6"),
        "safetensors",
    ]
    return Model(
        framework="transformers",
        kind=architecture,
        format="Hugging Face directory, safetensors",
        function="predict",
        inputs=(Input(name=parameter, dtype="bytes" if parameter == "image" else "text", shape=()),),
        outputs=(Output(name=name, type="Any"),),
        files=((directory.name, directory),),
        app=_source(directory, name, parameter).text(),
        requirements=(*lines, "pillow") if parameter == "image" else tuple(lines),
        version=version,
        smoke=_smoke(parameter, name),
        facts={"task": name},
    )


def _check_weights(directory: Path) -> None:
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        other = next((name for name in _OTHER_WEIGHTS if (directory / name).exists()), None)
        found = f"has its weights in {other}" if other else "has no weights"
        raise ModelError(
            f"{found}: save it by model.save_pretrained(…), which writes model.safetensors", where=str(directory)
        )
    for file in weights:
        safetensors_header(file)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"is no JSON: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise ModelError("is no configuration of a model", where=str(path))
    return found


def safetensors_header(path: Path) -> dict[str, Any]:
    """The names, types and shapes of a file's tensors; its length must be what they add up to. Raises ModelError."""
    size = check_size(path)
    length = int.from_bytes(read_head(path, 8), "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
        raise ModelError("is no whole safetensors file; save it again", where=str(path))
    try:
        header = json.loads(read_head(path, 8 + length)[8:])
        ends = [int(one["data_offsets"][1]) for key, one in header.items() if key != "__metadata__"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
        raise ModelError("is no whole safetensors file; save it again", where=str(path)) from None
    if 8 + length + max(ends, default=0) != size:
        raise ModelError("is no whole safetensors file: its tensors end elsewhere; save it again", where=str(path))
    return dict(header)


def _smoke(parameter: str, task: str) -> dict[str, Any] | None:
    if parameter == "image" or task == "fill-mask":  # which word is masked depends on the tokenizer
        return None
    return {parameter: "hello"}


def _source(directory: Path, task: str, parameter: str) -> Source:
    image = parameter == "image"
    batch = f"[Image.open(io.BytesIO(one)) for one in {parameter}]" if image else parameter
    return Source(
        doc=f"Serves {directory.name} by a pipeline of transformers, on the CPU.",
        standard=["import io"] if image else [],
        libraries=["from transformers import pipeline", *(["from PIL import Image"] if image else [])],
        init=[f'self.pipeline = pipeline("{task}", model=str(HERE / {quoted(directory.name)}))'],
        parameters=[(parameter, "list[bytes]" if image else "list[str]")],
        returns="list[Any]",
        body=[f"return self.pipeline({batch}, batch_size=len({parameter}))"],
        batch=16,
    )
