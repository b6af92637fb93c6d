"""What a deploy warns of in a bundle: files that look like secrets, and modules that lose to others of their name."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Final

from clipper.contract.requirements import Requirement, parse_line

__all__ = ["hidden_modules", "likely_secrets"]

# By name: what tools write credentials to. Examples and templates of such files hold none.
_SECRET_NAMES: Final = re.compile(
    r"""(?ix) (
        \.env (\..+)? | .+\.env | \.envrc | \.netrc | _netrc | \.pypirc | \.npmrc | \.pgpass | \.htpasswd
      | \.git-credentials | \.dockercfg | \.vault-token | \.s3cfg | \.boto
      | id_(rsa|dsa|ecdsa|ed25519)(_sk)? | .+\.(ppk|p12|pfx|jks|keystore|kdbx|tfstate)
      | credentials (\.(json|toml|ya?ml|ini|csv|db))? | (client_)?secrets?(_.+)? \. (json|toml|ya?ml|ini|env|txt)
      | service[-_]?account.*\.json | .*gcp.*key.*\.json | token\.(json|pickle|txt) | kubeconfig
      | terraform\.tfvars | .+\.auto\.tfvars
    )\Z"""
)
_HARMLESS: Final = re.compile(r"(?i)(^|[._-])(example|sample|template|dist|schema|tpl)s?([._-]|\Z)")
_SECRET_PATHS: Final = (".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud/")
# A certificate ends in .pem as well, so that these count by what they hold.
_KEY_FILE: Final = re.compile(r"(?i).+\.(pem|key|asc|der|pk8|txt|crt)\Z")
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_KEY_BYTES: Final = 64 * 1024

_RUNTIME_MODULES: Final = frozenset({"clipper", "msgspec", "cloudpickle"})


def likely_secrets(files: Iterable[tuple[str, int]], read: Callable[[str], bytes]) -> list[str]:
    """Paths that look like credentials. `files` are (path, bytes); `read` gives the content of a small file."""
    return [path for path, size in files if _is_secret(path, size, read)]


def _is_secret(path: str, size: int, read: Callable[[str], bytes]) -> bool:
    name = PurePosixPath(path).name
    if any(f"/{path}".find(f"/{place}") >= 0 for place in _SECRET_PATHS):
        return True
    if _SECRET_NAMES.match(name):
        return size > 0 and not _HARMLESS.search(name)
    if not _KEY_FILE.match(name) or size > _KEY_BYTES:
        return False
    try:
        return bool(_PRIVATE_KEY.search(read(path)))
    except OSError:
        return False


def hidden_modules(files: Iterable[tuple[str, int]], requirements: Iterable[str]) -> list[str]:
    """What is wrong with the names of the project's own modules, one sentence each."""
    packages = {r.name.replace("-", "_") for line in requirements if isinstance(r := parse_line(line), Requirement)}
    found = []
    for path, _ in files:
        module = _module(path)
        if module in sys.stdlib_module_names:
            found.append(
                f"{path} has the name of a module of Python: `import {module}` gives Python's own where that is loaded "
                "already; rename it"
            )
        elif module in _RUNTIME_MODULES:
            found.append(f"{path} has the name of a module of the runtime, which is loaded already; rename it")
        elif module and module in packages:
            found.append(f"{path} hides the package {module} that the requirements install; rename it")
    return found


def _module(path: str) -> str:
    """The top module that a file of the bundle defines, or ""."""
    parts = PurePosixPath(path).parts
    if len(parts) == 1 and path.endswith(".py"):
        return path.removesuffix(".py")
    return parts[0] if len(parts) == 2 and parts[1] == "__init__.py" else ""
