"""Requirement lines for a framework: the version that a file names, else the one installed beside this command."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Final

__all__ = ["exactly", "installed", "package_of", "requirement"]

# Packages whose module has another name.
_PACKAGES: Final = {
    "sklearn": "scikit-learn",
    "xgboost": "xgboost-cpu",
    "lightgbm": "lightgbm",
    "pandas": "pandas",
    "imblearn": "imbalanced-learn",
    "category_encoders": "category-encoders",
    "feature_engine": "feature-engine",
    "umap": "umap-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn_pandas": "sklearn-pandas",
    "sksurv": "scikit-survival",
}
_VERSION: Final = re.compile(r"\d+(\.\d+)+((a|b|rc)\d+)?(\.post\d+)?")


def installed(package: str) -> str | None:
    """The version of a package of this interpreter, without a local part: "2.13.0" for "2.13.0+cpu"."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def exactly(package: str, version: str | None) -> str | None:
    """`package==version`, or None for what is no release of an index: "1.2.dev0", a local build's part is left out."""
    text = (version or "").partition("+")[0]
    return f"{package}=={text}" if _VERSION.fullmatch(text) else None


def requirement(package: str, version: str | None = None, otherwise: str = "") -> str:
    """The version that the file names, else the installed one, else whatever `otherwise` allows (">=1.17")."""
    return exactly(package, version) or exactly(package, installed(package)) or package + otherwise


def package_of(module: str) -> str | None:
    """The package that a top-level module comes from: as known, or as installed here. Nothing is imported."""
    if module in _PACKAGES:
        return _PACKAGES[module]
    return next(iter(_installed_modules().get(module, ())), None)


@functools.lru_cache(maxsize=1)
def _installed_modules() -> Mapping[str, list[str]]:
    """Module -> packages; reading the lists of all packages takes a while."""
    return metadata.packages_distributions()
