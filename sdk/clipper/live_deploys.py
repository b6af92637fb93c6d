"""`clipper.deploy`: functions, classes and models of the running program, as in a notebook."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from clipper.address import FunctionAddress
from clipper.client import shared_client
from clipper.closures import closure_files
from clipper.contract.constants import CLOSURE_MODULE
from clipper.contract.spec import EnvironmentSpec, FunctionSpec, SpecError
from clipper.contract.wrappers import name_of
from clipper.control import ControlClient
from clipper.deploying import OnEvent, deploy_bundle, deploy_project
from clipper.function import Function, FunctionOptions
from clipper.models.live import is_live_model, save_model
from clipper.models.projects import write_project
from clipper.models.reading import read_model
from clipper.packaging import bundle_files
from clipper.project import Project, load_project
from clipper.requirement_files import read_requirements

__all__ = ["deploy"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def deploy(  # type: ignore[overload-overlap]  # what can be called keeps its signature, a model has one of its own
    fn: Callable[P, R] | Function[P, R],
    *,
    name: str,
    requirements: Iterable[str] = (),
    python: str | None = None,
    force: bool = False,
    control: ControlClient | None = None,
    on_event: OnEvent | None = None,
    **options: Unpack[FunctionOptions],
) -> Function[P, R]: ...


@overload
def deploy(
    fn: object,
    *,
    name: str,
    requirements: Iterable[str] = (),
    python: str | None = None,
    force: bool = False,
    control: ControlClient | None = None,
    on_event: OnEvent | None = None,
    smoke: Mapping[str, Any] | None = None,
    method: str | None = None,
    example: Any = None,
    **options: Unpack[FunctionOptions],
) -> Function[..., Any]: ...


def deploy(
    fn: Any,
    *,
    name: str,
    requirements: Iterable[str] = (),
    python: str | None = None,
    force: bool = False,
    control: ControlClient | None = None,
    on_event: OnEvent | None = None,
    smoke: Mapping[str, Any] | None = None,
    method: str | None = None,
    example: Any = None,
    **options: Any,
) -> Function[..., Any]:
    """Deploy a function, a class or a model of the running program, as in a notebook; the function, bound to what was
    deployed.

    `name` is "project/function"; the project then has this function only. Its references to `__main__` and to modules
    of this machine are sent by value (cloudpickle), and modules of this machine that it imports when it runs as files;
    installed packages must be among `requirements`. Only a replica
    unpickles it, with the same minor version of Python: that is the default, and another one is refused.

    A model of scikit-learn, XGBoost, LightGBM, PyTorch or ONNX is saved in its library's own format and deployed as
    `clip deploy FILE` does; `name` may then be the project's alone. `smoke` are arguments of a call that it takes,
    `method` what is served of an estimator ("predict_proba"), and `example` a batch of inputs by which a
    torch.nn.Module is exported.
    """
    target = _Target(name, tuple([requirements] if isinstance(requirements, str) else requirements), python, options)
    told = _Told(smoke, method, example)
    place = control, on_event or (lambda event: None), force
    address, bound = (_deploy_model if is_live_model(fn) else _deploy_closure)(fn, target, told, *place)
    return bound.bind(address, shared_client(control.location) if control is not None else None)


@dataclass(frozen=True, slots=True)
class _Told:
    """What `deploy` was told of a model."""

    smoke: Mapping[str, Any] | None
    method: str | None
    example: Any


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a live object goes, and what it is deployed with."""

    name: str
    requirements: tuple[str, ...]
    python: str | None
    options: Mapping[str, Any]

    def address(self, name: str) -> FunctionAddress:
        address = FunctionAddress.parse(name)
        if address.version is not None:
            raise SpecError(f"name = {name!r} names a version; versions are counted by the platform", key="name")
        return address


def _deploy_closure(
    fn: Any, target: _Target, told: _Told, control: ControlClient | None, on_event: OnEvent, force: bool
) -> tuple[FunctionAddress, Function[..., Any]]:
    for key in ("smoke", "method", "example"):
        if getattr(told, key) is not None:
            raise SpecError(f"{key} is for models of libraries, not for a {type(fn).__name__}", key=key)
    address = target.address(target.name)
    decorated = fn if isinstance(fn, Function) else None
    wrapped = decorated.wrapped if decorated is not None else fn
    options = {**(decorated.options if decorated is not None else {}), **target.options}
    project = _closure_project(address, wrapped, options, target.requirements, target.python)
    bundle = bundle_files(closure_files(wrapped))
    with nullcontext(control) if control is not None else ControlClient() as used:
        deploy_bundle(project, bundle, used, on_event, force)
    return address, Function(wrapped, name=address.function, options=options)


def _deploy_model(
    live: Any, target: _Target, told: _Told, control: ControlClient | None, on_event: OnEvent, force: bool
) -> tuple[FunctionAddress, Function[..., Any]]:
    """Save it, read it as a file, and deploy the project that this gives."""
    with TemporaryDirectory(prefix="clip-model-") as place:
        model = read_model(save_model(live, Path(place), example=told.example), told.method)
        # A project's name alone takes the function's usual one.
        address = target.address(target.name if "/" in target.name else f"{target.name}/{model.function}")
        python = _python(target.python)
        model = replace(model, requirements=(*model.requirements, *target.requirements), python=python)
        directory = Path(place) / address.project
        names = {"name": address.project, "function": address.function}
        write_project(model, directory, **names, smoke=told.smoke, options=target.options)
        with nullcontext(control) if control is not None else ControlClient() as used:
            deploy_project(load_project(directory), used, on_event, force)
    return address, Function(None, name=address.function)


def _closure_project(
    address: FunctionAddress,
    wrapped: Callable[..., Any],
    options: Mapping[str, Any],
    requirements: Iterable[str],
    python: str | None,
) -> Project:
    """A project of one function, which is loaded from a pickle. Raises SpecError."""
    where = f"clipper.deploy('{address}')"
    lines = read_requirements(None, [requirements] if isinstance(requirements, str) else requirements, where=where)
    target = re.sub(r"\W", "_", name_of(wrapped)).strip("_") or "closure"
    entrypoint = f"{CLOSURE_MODULE}:{_identifier(target)}"
    return Project(
        directory=Path(),
        name=address.project,
        environment=EnvironmentSpec.parse({"python": _python(python), "requirements": lines.lines}, where=where),
        functions=(FunctionSpec.parse(address.function, entrypoint, options, where=where),),
        provenance={},
    )


def _identifier(text: str) -> str:
    return text if not text[0].isdigit() else f"_{text}"


def _python(wanted: str | None) -> str:
    """The version to ask for: only the same minor version reads pickled bytecode."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if wanted is not None and wanted != own and not wanted.startswith(own + "."):
        raise SpecError(
            f"python = {wanted!r} is not allowed: a closure of Python {own} can only be loaded by Python {own}; "
            "leave python out, or deploy a project directory",
            key="python",
        )
    return wanted or own
