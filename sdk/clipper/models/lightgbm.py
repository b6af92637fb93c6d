"""LightGBM's text format: lines of `key=value` before the first tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import read_head
from clipper.models.packages import requirement
from clipper.models.smoke import ones
from clipper.models.sources import Source, array_hint, columns_comment, quoted

__all__ = ["is_lightgbm", "read_lightgbm"]

# The names of a hundred thousand columns.
_HEADER_BYTES: Final = 16 * 1024 * 1024
_TAIL_BYTES: Final = 64 * 1024
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_VERSIONS: Final = ("v2", "v3", "v4")


def is_lightgbm(head: bytes) -> bool:
    return bool(re.match(rb"tree\r?\n(version|num_class)=", head))


def read_lightgbm(path: Path) -> Model:
    """Raises ModelError for a file that is damaged or of a version that is not known."""
    header, found, _ = read_head(path, _HEADER_BYTES).replace(b"\r\n", b"\n").partition(b"\n\n")
    lines = header.decode("utf-8", "replace").splitlines()
    keys = dict(line.split("=", 1) for line in lines if "=" in line)
    if not found or not _NUMBER.fullmatch(keys.get("max_feature_idx", "")) or not _is_whole(path):
        raise ModelError("is no whole model of LightGBM: it ends too early; save it again", where=str(path))
    version = keys.get("version", "")
    if version not in _VERSIONS:
        raise ModelError(
            f"has LightGBM's format {version or 'without a version'}, of which {', '.join(_VERSIONS)} are known; "
            "save it with a released version",
            where=str(path),
        )
    width = int(keys["max_feature_idx"]) + 1
    names = keys.get("feature_names", "").split(" ")
    named = len(names) == width and names != [f"Column_{place}" for place in range(width)]
    classes = int(keys["num_class"]) if _NUMBER.fullmatch(keys.get("num_class", "")) else 1
    objective = keys.get("objective", "none").split(" ")[0]
    one = Input(name="features", dtype="float64", shape=(width,))
    returns = "float" if classes == 1 else "list[float]"
    return Model(
        framework="lightgbm",
        kind=f"Booster ({objective})",
        format=f"text, {version}",
        function="predict",
        inputs=(one,),
        outputs=(Output(name="predict", type=returns),),
        files=((path.name, path),),
        app=_source(path, one, names if named else [], returns).text(),
        requirements=(requirement("lightgbm", otherwise=">=4" if version == "v4" else ">=3.3"), "numpy>=1.26"),
        smoke=ones((one,)),
        facts={"columns": ", ".join(names[:20])} if named else {},
    )


def _is_whole(path: Path) -> bool:
    """Whether the trees end, and the parameters after them: a file that was cut lacks it, whatever it kept."""
    tail = _tail(path)
    return "end of trees" in tail and ("\nparameters:" not in tail or "end of parameters" in tail)


def _tail(path: Path) -> str:
    """The end of the file, from where the trees end at the latest."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - _TAIL_BYTES)
        file.seek(start)
        text = file.read().decode("utf-8", "replace")
        if "end of trees" not in text and start:
            # The parameters and the importances of many columns may be longer.
            file.seek(max(0, size - _HEADER_BYTES))
            text = file.read().decode("utf-8", "replace")
        return text


def _source(path: Path, one: Input, names: list[str], returns: str) -> Source:
    columns = columns_comment(names)
    return Source(
        doc=f"Serves {path.name}, a model of LightGBM. A missing value is NaN, which MessagePack and .npy can carry.",
        libraries=["import lightgbm"],
        definitions=["", *columns, f"Features = {array_hint(one)}"],
        init=[f"self.model = lightgbm.Booster(model_file=HERE / {quoted(path.name)})"],
        parameters=[("features", "list[Features]")],
        returns=f"list[{returns}]",
        body=["return self.model.predict(np.stack(features)).tolist()"],
    )
