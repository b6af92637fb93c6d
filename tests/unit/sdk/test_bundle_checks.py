"""A deploy names files that look like secrets, and modules that lose to others."""

from __future__ import annotations

import pytest

from clipper.bundle_checks import hidden_modules, likely_secrets

KEY = b"-----BEGIN RSA PRIVATE KEY-----\nabc\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nabc\n"


@pytest.mark.parametrize(
    "path",
    [
        ".env", "config/.env.production", "prod.env", "id_rsa", "keys/id_ed25519", ".netrc", ".pypirc", "x.p12",
        "credentials.json", "service-account-prod.json", "client_secret_12.json", "secrets.toml", ".aws/credentials",
        "deploy/.docker/config.json", ".git-credentials", "terraform.tfstate", "token.json", "server.key", "key.pem",
    ],
)  # fmt: skip
def test_files_that_tools_keep_credentials_in_are_named(path: str) -> None:
    assert likely_secrets([("app.py", 10), (path, 10)], lambda _: KEY) == [path]


@pytest.mark.parametrize(
    "path",
    [
        "app.py", ".env.example", ".env.sample", "secrets.py", "credentials.py", "tokenizer.json", "environment.yml",
        "secrets.example.toml", "id_rsa.pub", "cacert.pem", "model.key", "data/keys.csv", "env.py",
    ],
)  # fmt: skip
def test_other_files_are_not(path: str) -> None:
    assert likely_secrets([(path, 10)], lambda _: CERTIFICATE) == []


def test_large_and_unreadable_files_are_not_read() -> None:
    def refuse(path: str) -> bytes:
        raise PermissionError(path)

    assert likely_secrets([("weights.key", 10**9), ("own.pem", 10), (".env", 0)], refuse) == []


def test_a_module_that_loses_to_a_loaded_one_is_named() -> None:
    files = [("queue.py", 1), ("app.py", 1), ("types/__init__.py", 1), ("lib/queue.py", 1), ("msgspec.py", 1)]
    first, second, third = hidden_modules(files, [])
    assert first.startswith("queue.py has the name of a module of Python")
    assert second.startswith("types/__init__.py")
    assert "msgspec.py has the name of a module of the runtime" in third


def test_a_module_that_hides_a_required_package_is_named() -> None:
    (found,) = hidden_modules([("scikit_learn.py", 1), ("app.py", 1)], ["Scikit-Learn>=1", "--pre"])
    assert "hides the package scikit_learn" in found


def test_a_requirement_that_is_a_path_hides_nothing() -> None:
    assert hidden_modules([("clip.toml", 1), ("app.py", 1)], ["./vendored-1.0-py3-none-any.whl"]) == []
