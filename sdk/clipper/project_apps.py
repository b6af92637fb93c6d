"""`[apps.NAME]` of a project: the applications that it declares, over functions of this project and of others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipper.contract.applications import POLICIES, ApplicationSpec
from clipper.contract.rules import SpecError, nearest, shown
from clipper.errors import ClipperError
from clipper.project_files import PROJECT_FILE

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["AppliedApp", "app_provenance", "apply_apps", "declared_apps", "parse_apps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedApp:
    """What became of an application of the project's file. `error` says why it failed."""

    name: str
    outcome: Literal["created", "changed", "unchanged", "failed"]
    url: str = ""
    error: ClipperError | None = None


def parse_apps(table: object, project: str, functions: Iterable[str]) -> tuple[ApplicationSpec, ...]:
    """The applications of `[apps]`, in the file's order. Raises SpecError naming the table, the key and the fix.

    A link without a project, as in "classify" or "classify@3", means a function of this project. So does `policy`,
    where it is none of the platform's policies.
    """
    if not isinstance(table, Mapping):
        raise SpecError("apps must be tables: [apps.NAME]", where=PROJECT_FILE, key="apps")
    names = tuple(functions)
    return tuple(_application(name, entry, project, names) for name, entry in table.items())


def app_provenance(table: object) -> dict[str, dict[str, str]]:
    """Where the value of each key of each application comes from: the file, or the default."""
    entries = table if isinstance(table, Mapping) else {}
    return {
        name: {key: PROJECT_FILE if key in entry else "default" for key in ApplicationSpec.option_names()}
        for name, entry in entries.items()
    }


def declared_apps(control: ControlClient, project: str) -> tuple[str, ...]:
    """The applications that the file of the version that answers declared; none where that is not known."""
    try:
        return tuple(str(name) for name in control.config(project).get("apps", ()))
    except ClipperError:
        return ()


def apply_apps(control: ControlClient, apps: Iterable[ApplicationSpec]) -> Iterator[AppliedApp]:
    """Make the platform's applications those of the file, one after the other; one that fails stops no other."""
    for spec in apps:
        try:
            result = control.put_app(spec.name, spec.to_dict())
        except ClipperError as error:
            yield AppliedApp(name=spec.name, outcome="failed", error=error)
            continue
        app = result["application"]
        new = app["created_at"] == app["updated_at"]
        outcome: Literal["created", "changed", "unchanged"] = (
            "unchanged" if not result["changed"] else "created" if new else "changed"
        )
        yield AppliedApp(name=spec.name, outcome=outcome, url=str(app["url"]))


def _application(name: str, entry: object, project: str, functions: Collection[str]) -> ApplicationSpec:
    where = f"{PROJECT_FILE} [apps.{name}]"
    if not isinstance(entry, Mapping):
        raise SpecError(f"apps.{name} must be a table: [apps.{name}]", where=PROJECT_FILE, key=name)
    if name == project:
        raise SpecError(
            f"application name {shown(name)} is not allowed: the project has it; rename the table",
            where=where,
            key="name",
        )
    table = dict(entry)
    if isinstance(links := table.get("links"), (list, tuple)):
        table["links"] = [_link(link, project, functions, where) for link in links]
    policy = table.get("policy")
    if isinstance(policy, str) and policy not in POLICIES and policy in functions:
        table["policy"] = f"{project}/{policy}"
    elif isinstance(policy, str) and "/" in policy:
        _check_own(policy, project, functions, where, "policy")
    return ApplicationSpec.parse(name, table, where=where)


def _link(link: object, project: str, functions: Collection[str], where: str) -> object:
    """The link with its function's project; anything that is no link is left to the spec's own refusal."""
    if isinstance(link, Mapping):
        if not isinstance(link.get("function"), str):
            return link
        qualified: dict[str, Any] = {**link, "function": _link(link["function"], project, functions, where)}
        return qualified
    if not isinstance(link, str):
        return link
    address = link if "/" in link else f"{project}/{link}"
    _check_own(address, project, functions, where, "links")
    return address


def _check_own(address: str, project: str, functions: Collection[str], where: str, key: str) -> None:
    """Raise SpecError for a function that this project would have and does not."""
    owner, _, rest = address.partition("/")
    name = rest.partition("@")[0]
    if owner != project or name in functions:
        return
    guess = nearest(name, functions)
    hint = f"did you mean {guess!r}?" if guess else f"it has {', '.join(functions)}"
    raise SpecError(f"project {project!r} has no function {name!r}; {hint}", where=where, key=key)
