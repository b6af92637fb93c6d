"""`clip config show`: the effective value of every key, and its source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from clipper.cli.console import Output, Part
from clipper.cli.options import directory_argument, json_option
from clipper.cli.text import scalar
from clipper.contract.applications import ApplicationSpec
from clipper.contract.constants import KEY_FILE, PLATFORM_FILE
from clipper.contract.spec import FunctionSpec
from clipper.errors import PlatformUnreachable
from clipper.location import find_platform, home_directory
from clipper.project import Project, load_project
from clipper.project_files import PROJECT_FILE

__all__ = ["client_configuration", "show"]


@click.command()
@directory_argument
@json_option
def show(directory: Path, out: Output) -> None:
    """Show every option, its value and its source.

    For the project in DIR, and for the commands themselves: which platform they talk to, and where the key was found.
    """
    # Outside of a project the client's half is still shown.
    has_project = (directory / PROJECT_FILE).exists() or directory != Path(".")
    project = load_project(directory) if has_project else None
    client = client_configuration()
    if out.json:
        out.document({"client": client, "project": _document(project) if project else None})
        return
    out.table(
        ["CLIENT", "VALUE", "FROM"], [[key, value["value"], (value["from"], "dim")] for key, value in client.items()]
    )
    if project is None:
        out.line()
        out.line("No clip.toml here. Make a project: clip init")
    else:
        _project(out, project)


def client_configuration() -> dict[str, dict[str, str]]:
    """The platform's address, whether there is a key (never the key itself) and the home, each with its source."""
    home = home_directory()
    try:
        found = find_platform()
        url, url_source = found.url, "CLIP_URL" if os.environ.get("CLIP_URL") else str(home / PLATFORM_FILE)
        has_key = bool(found.api_key)
    except PlatformUnreachable:
        url, url_source = "none", f"neither CLIP_URL nor {home / PLATFORM_FILE}: start one with clip up"
        has_key = bool(os.environ.get("CLIP_API_KEY"))
    key_source = "CLIP_API_KEY" if os.environ.get("CLIP_API_KEY") else str(home / KEY_FILE)
    return {
        "url": {"value": url, "from": url_source},
        "api_key": {"value": "found" if has_key else "none", "from": key_source if has_key else "not found"},
        "home": {"value": str(home), "from": "CLIP_HOME" if os.environ.get("CLIP_HOME") else "default"},
    }


def _document(project: Project) -> dict[str, Any]:
    def sources(name: str, table: dict[str, Any]) -> dict[str, Any]:
        found = project.provenance.get(name, {})
        return {key: {"value": value, "from": found.get(key, "default")} for key, value in table.items()}

    def function(spec: FunctionSpec) -> dict[str, Any]:
        derived = {key: {"value": value, "from": origin} for key, (value, origin) in spec.derived().items()}
        return sources(spec.name, spec.to_dict()) | derived

    environment = _environment(project)
    return {
        "name": project.name,
        "keep_versions": {"value": project.keep_versions, "from": project.keep_versions_provenance},
        "environment": {
            key: {"value": environment[key], "from": source} for key, source in project.environment_provenance.items()
        },
        "env": {name: {"value": value, "from": PROJECT_FILE} for name, value in project.env.items()},
        "deploy": {
            key: {"value": getattr(project.deploy, key), "from": source}
            for key, source in project.deploy_provenance.items()
        },
        "functions": {spec.name: function(spec) for spec in project.functions},
        "apps": {spec.name: _application(project, spec) for spec in project.apps},
    }


def _application(project: Project, spec: ApplicationSpec) -> dict[str, Any]:
    """Each key's value and source."""
    found, table = project.apps_provenance[spec.name], spec.to_dict()
    return {key: {"value": table[key], "from": source} for key, source in found.items()}


def _environment(project: Project) -> dict[str, Any]:
    """The values of all keys, without the credentials of indexes."""
    shown = project.environment.shown()
    return {key: shown.get(key, getattr(project.environment, key)) for key in project.environment_provenance}


def _project(out: Output, project: Project) -> None:
    out.line()
    out.line("Project ", (project.name, "bold"))
    out.table(
        [PROJECT_FILE, "VALUE", "FROM"],
        [_row("keep_versions", scalar(project.keep_versions), project.keep_versions_provenance)],
    )
    out.line()
    out.table(
        ["[environment]", "VALUE", "FROM"],
        [
            _row(key, scalar(_environment(project)[key]), source)
            for key, source in project.environment_provenance.items()
        ],
    )
    if project.env:
        out.line()
        out.table(
            ["[env]", "VALUE", "FROM"], [_row(name, scalar(value), PROJECT_FILE) for name, value in project.env.items()]
        )
    out.line()
    out.table(
        ["[deploy]", "VALUE", "FROM"],
        [_row(key, scalar(getattr(project.deploy, key)), source) for key, source in project.deploy_provenance.items()],
    )
    for spec in project.functions:
        out.line()
        out.table([f"[functions.{spec.name}]", "VALUE", "FROM"], _rows(spec, project.provenance.get(spec.name, {})))
    for app in project.apps:
        rows = _application(project, app)
        rows["links"] |= {"value": _links(app)}
        out.line()
        out.table(
            [f"[apps.{app.name}]", "VALUE", "FROM"],
            [_row(key, scalar(found["value"]), str(found["from"])) for key, found in rows.items()],
        )


def _links(app: ApplicationSpec) -> list[Any]:
    """Links as people write them: addresses, or tables of the keys that are set."""
    plain = [{key: value for key, value in link.items() if value is not None} for link in app.to_dict()["links"]]
    return [
        link.id if set(table) <= {"function", "version"} else table
        for link, table in zip(app.links, plain, strict=True)
    ]


def _rows(spec: FunctionSpec, sources: Any) -> list[list[Part]]:
    """A row per key; those of the autoscaling policy as `autoscaling.KEY`. Defaults are dimmed."""
    rows: list[list[Part]] = []
    derived = spec.derived()
    for key, value in spec.to_dict().items():
        if key in derived:
            rows.append(_row(key, scalar(derived[key][0]), derived[key][1]))
        elif key == "autoscaling":
            for part, inner in value.items():
                source = str(sources.get(part) or sources.get(f"autoscaling.{part}") or "default")
                rows.append(_row(f"autoscaling.{part}", scalar(inner), source))
        elif key != "name":
            rows.append(_row(key, scalar(value), str(sources.get(key, "default"))))
    return rows


def _row(key: str, value: str, source: str) -> list[Part]:
    style = "dim" if source == "default" else ""
    return [(f"  {key}", style), (value, style), (source, style)]
