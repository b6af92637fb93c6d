"""The SDK's exceptions and the platform's taxonomy are the same, class for class."""

from __future__ import annotations

import inspect

import pytest

from clipper import errors as sdk
from clipper_platform import errors as platform

PLATFORM = {
    name: cls
    for name, cls in vars(platform).items()
    if inspect.isclass(cls) and issubclass(cls, platform.ClipperError) and cls is not platform.ClipperError
}
SDK = {
    name: cls
    for name, cls in vars(sdk).items()
    if inspect.isclass(cls) and issubclass(cls, sdk.ClipperError) and cls.platform_code is not None
}


def test_both_sides_have_the_same_classes() -> None:
    assert set(SDK) == set(PLATFORM)
    assert len(PLATFORM) >= 20


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_class_has_the_code_status_and_retryability_of_its_counterpart(name: str) -> None:
    ours, theirs = SDK[name], PLATFORM[name]
    assert (ours.code, ours.status, ours.retryable) == (theirs.code, theirs.status, theirs.retryable)


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_class_has_the_same_bases_as_its_counterpart(name: str) -> None:
    def ancestry(cls: type) -> list[str]:
        return [base.__name__ for base in cls.__mro__]

    assert ancestry(SDK[name]) == ancestry(PLATFORM[name])


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_code_of_the_platform_becomes_its_class(name: str) -> None:
    theirs = PLATFORM[name]
    error = sdk.error_for(theirs.code, theirs.status, "told")
    assert type(error) is SDK[name]
    assert error.code == theirs.code
    assert error.status == theirs.status
    assert sdk.status_of(theirs.code) == theirs.status


def test_every_exception_that_the_sdk_exports_is_listed() -> None:
    exceptions = {name for name, cls in vars(sdk).items() if inspect.isclass(cls) and issubclass(cls, sdk.ClipperError)}
    assert exceptions <= set(sdk.__all__)
