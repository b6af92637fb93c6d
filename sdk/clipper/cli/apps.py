"""`clip app create`, `set`, `link`, `unlink`, `list`, `delete`: the applications that clients query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from clipper.address import FunctionAddress
from clipper.cli.app_options import (
    address,
    app_argument,
    given_keys,
    known_app,
    link_argument,
    linked,
    linked_argument,
    spec_options,
)
from clipper.cli.console import OK, Output, Part
from clipper.cli.names import complete_functions
from clipper.cli.options import confirm, connect, json_option, yes_option
from clipper.cli.text import duration, plural, scalar
from clipper.contract.applications import ApplicationSpec, LinkSpec
from clipper.errors import Conflict

__all__ = ["create", "delete", "link", "list_apps", "set_app", "unlink"]

_NOTHING_YET = (
    "No applications yet. Make one over a deployed function: "
    "clip app create NAME --input-type doubles --default-output 0 --link PROJECT/FUNCTION"
)

# A terminal at least this wide has room for URLs in `clip app list`.
_WIDE = 110


def _links(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> list[str]:
    return [str(address(text)) for text in given]


@click.command()
@click.argument("name", metavar="NAME", help="Its name, which clients query as /NAME/predict.")
@spec_options(new=True)
@click.option(
    "--link",
    "links",
    multiple=True,
    callback=_links,
    metavar="FUNCTION",
    shell_complete=complete_functions,
    help="A function to link, as in digits/classify or digits/classify@3; may be repeated.",
)
@json_option
def create(name: str, links: list[str], out: Output, **options: Any) -> None:
    """Make an application: a name that clients query, whatever models answer.

    An application without a link answers its default output.
    """
    spec = ApplicationSpec.parse(name, given_keys(options) | {"links": links}, where=f"clip app create {name}")
    with connect() as control:
        try:
            app = control.create_app(spec.to_dict())
        except Conflict as error:
            error.add_note(f"`clip app status {name}` shows it, `clip app set {name} …` changes it")
            raise
        url = f"{control.location.url}/{name}/predict"
    if out.json:
        out.document(app)
        return
    out.line((f"{OK} ", "green"), "Created ", (name, "bold"), f"  {_character(spec.to_dict())}")
    out.line("  ", (url, "cyan"))
    if not links:
        out.line((f"  It answers {scalar(spec.default_output)} until a function is linked: ", "dim"))
        out.line(("  ", "dim"), f"clip app link {name} PROJECT/FUNCTION")


def _character(spec: Mapping[str, Any]) -> str:
    """Input type, policy and objective in a few words."""
    return f"{spec['input_type']} · {spec['policy']} · answers within {duration(spec['latency_slo_s'])}"


@click.command("set")
@app_argument
@spec_options(new=False)
@json_option
def set_app(name: str, out: Output, **options: Any) -> None:
    """Change an application; what is not named stays as it is.

    An option of the policy replaces that option; with another policy, the options are those given here only.
    """
    keys = given_keys(options)
    if not keys:
        raise click.UsageError("Nothing to change: name at least one option", ctx=click.get_current_context())
    with connect() as control, known_app(control, name):
        before = control.app(name)
        result = control.put_app(name, _changed(name, before, keys).to_dict())
    if out.json:
        out.document(result)
    elif result.get("changed") is False:
        out.line((f"{OK} ", "green"), (name, "bold"), " is so already")
    else:
        out.line((f"{OK} ", "green"), "Changed ", (name, "bold"), f"  {_character(before | keys)}")


def _changed(name: str, before: Mapping[str, Any], keys: Mapping[str, Any]) -> ApplicationSpec:
    """The application with these keys. Raises SpecError."""
    table = {key: value for key, value in before.items() if key in ApplicationSpec.option_names()} | dict(keys)
    table["links"] = [{key: link[key] for key in LinkSpec.__struct_fields__} for link in before["links"]]
    if keys.get("policy", before["policy"]) == before["policy"]:
        table["policy_options"] = {**before.get("policy_options", {}), **keys.get("policy_options", {})}
    elif "policy_options" not in keys:
        table["policy_options"] = {}
    return ApplicationSpec.parse(name, table, where=f"clip app set {name}")


@click.command()
@app_argument
@link_argument
@click.option("--parameter", metavar="NAME", help="The argument that the input becomes.  [default: the only one]")
@click.option("--weight", type=click.FloatRange(0, 1), help="Its share of the queries, of the policy split.")
@json_option
def link(name: str, function: FunctionAddress, parameter: str | None, weight: float | None, out: Output) -> None:
    """Link a function to an application, as one of its models."""
    with connect() as control, known_app(control, name, function):
        result = control.link_app(name, function, parameter=parameter, weight=weight)
    if out.json:
        out.document(result)
        return
    others = [link for link in linked(result["application"]) if link != str(function)]
    beside = f", beside {', '.join(others)}" if others else ""
    out.line((f"{OK} ", "green"), (name, "bold"), f" asks {function} now{beside}")


@click.command()
@app_argument
@linked_argument
@json_option
def unlink(name: str, function: FunctionAddress, out: Output) -> None:
    """Remove a link; the function itself stays."""
    with connect() as control, known_app(control, name, function):
        app = control.unlink_app(name, function)
    if out.json:
        out.document(app)
        return
    left = linked(app)
    rest = f"it asks {', '.join(left)}" if left else "it has no link left and answers its default output"
    out.line((f"{OK} ", "green"), (name, "bold"), f" no longer asks {function}; {rest}")


@click.command()
@app_argument
@yes_option
@json_option
def delete(name: str, yes: bool, out: Output) -> None:
    """Delete an application with its feedback; the functions stay."""
    with connect() as control, known_app(control, name):
        if not yes:
            links = linked(control.app(name))
            confirm(out, f"Delete {name} with {plural(len(links), 'link')} and all its feedback?")
        result = control.delete_app(name)
    if out.json:
        out.document(result or {"deleted": name})
    else:
        out.line((f"{OK} ", "green"), f"Deleted {name}")


@click.command()
@json_option
def list_apps(out: Output) -> None:
    """List the applications."""
    with connect() as control:
        apps = control.apps()
    if out.json:
        out.document({"applications": apps})
    elif not apps:
        out.line(_NOTHING_YET)
    else:
        _table(out, apps)


def _table(out: Output, apps: list[dict[str, Any]]) -> None:
    columns = ["APPLICATION", "INPUT", "POLICY", "OBJECTIVE", "MODELS"]
    with_urls = not out.terminal or out.console().width >= _WIDE
    rows: list[list[Part]] = []
    for app in apps:
        models = linked(app)
        row: list[Part] = [
            (str(app["name"]), "bold"),
            str(app["input_type"]),
            str(app["policy"]),
            duration(app["latency_slo_s"]),
            ", ".join(models) or ("none", "yellow"),
        ]
        rows.append([*row, str(app["url"])] if with_urls else row)
    out.table([*columns, "URL"] if with_urls else columns, rows, right=("OBJECTIVE",))
