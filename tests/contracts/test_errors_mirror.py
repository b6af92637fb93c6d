"""The SDK and the platform have one exception class per entry of the contract's table of errors."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from clipper import errors as sdk
from clipper.contract import errors as table
from clipper.contract.errors import ERRORS, CodedError
from clipper_platform import errors as platform


def classes(module: ModuleType) -> dict[str, type[CodedError]]:
    """The module's classes of coded errors by name, its base left out."""
    found = {
        name: cls for name, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, module.ClipperError)
    }
    del found["ClipperError"]
    return found


PLATFORM = classes(platform)
SDK = {name: cls for name, cls in classes(sdk).items() if cls.code in ERRORS}


def test_the_table_has_no_code_twice() -> None:
    entries = [entry for entry in vars(table).values() if isinstance(entry, table.ErrorCode)]
    assert len(entries) == len(ERRORS) >= 24


@pytest.mark.parametrize("side", [PLATFORM, SDK], ids=["platform", "sdk"])
def test_each_side_has_one_class_for_each_entry_of_the_table(side: dict[str, type[CodedError]]) -> None:
    assert sorted(cls.code for cls in side.values()) == sorted(ERRORS)


@pytest.mark.parametrize("cls", [*PLATFORM.values(), *SDK.values()], ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_class_has_the_status_and_retryability_of_its_entry(cls: type[CodedError]) -> None:
    assert (cls.code, cls.status, cls.retryable) == ERRORS[cls.code]


def test_both_sides_give_a_code_the_same_class_name() -> None:
    assert {name: cls.code for name, cls in SDK.items()} == {name: cls.code for name, cls in PLATFORM.items()}


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_class_has_the_same_bases_as_its_counterpart(name: str) -> None:
    def ancestry(cls: type) -> list[str]:
        return [base.__name__ for base in cls.__mro__]

    assert ancestry(SDK[name]) == ancestry(PLATFORM[name])


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_code_of_the_platform_becomes_its_class(name: str) -> None:
    cls = PLATFORM[name]
    error = sdk.error_for(cls.code, cls.status, "what went wrong")
    assert type(error) is SDK[name]
    assert (error.code, error.status, error.retryable) == ERRORS[cls.code]
    assert sdk.status_of(cls.code) == cls.status


@pytest.mark.parametrize("module", [sdk, platform], ids=["sdk", "platform"])
def test_every_exception_is_exported(module: ModuleType) -> None:
    assert {"ClipperError", *classes(module)} <= set(module.__all__)


def test_what_only_a_client_can_meet_has_no_code_of_the_table() -> None:
    assert set(classes(sdk)) - set(SDK) == {
        "CallCancelled",
        "ConnectionLost",
        "PlatformUnreachable",
        "UnexpectedAnswer",
    }
