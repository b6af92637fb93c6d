from __future__ import annotations

import pytest

from clipper.address import FunctionAddress
from clipper.contract.spec import SpecError


@pytest.mark.parametrize(
    ("text", "path"),
    [("digits/classify", "/fn/digits/classify"), ("digits/classify@3", "/fn/digits/classify@3")],
)
def test_an_address_is_read_and_written_alike(text: str, path: str) -> None:
    address = FunctionAddress.parse(text)
    assert str(address) == text
    assert address.url_path == path


@pytest.mark.parametrize(
    "text",
    ["", "digits", "a/b/c", "/b", "a/", "a/b@", "a/b@0", "a/b@-1", "a/b@x", "a/b@²", "a/b@9999999999", "../b", "a/..",
     "a b/c", "a/b?x=1", "a/b#c", "a/\x00", "a/é"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        FunctionAddress.parse(text)
