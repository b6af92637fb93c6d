"""`clip key …`: API keys."""

from __future__ import annotations

import click

from clipper.cli.console import OK, Output, Part
from clipper.cli.options import connect, json_option
from clipper.cli.text import stamp
from clipper.contract.constants import SCOPES
from clipper.errors import ClipperError

__all__ = ["create", "list_keys", "revoke"]


def _scopes(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> list[str]:
    """`--scope invoke --scope deploy` and `--scope invoke,deploy` are the same."""
    scopes = list(dict.fromkeys(word.strip() for entry in given or ("invoke",) for word in entry.split(",")))
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(SCOPES)}")
    return scopes


@click.command()
@click.argument("name", metavar="NAME", help="Whose key it is, as in ci or alice.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    callback=_scopes,
    metavar="SCOPE",
    help="invoke, deploy or admin; may be repeated.",
    show_default="invoke",
)
@json_option
def create(name: str, scopes: list[str], out: Output) -> None:
    """Make a key.

    It is shown this once: the platform keeps only its hash.
    """
    with connect() as control:
        key = control.create_key(name, scopes)
    if out.json:
        out.document(key)
        return
    # The key is alone on stdout, so that KEY=$(clip key create ci) works.
    out.note((f"{OK} ", "green"), f"Key {key['name']} ({', '.join(key['scopes'])}), id {key['id']}. Shown this once:")
    out.line((str(key["key"]), "bold"))
    out.note(("  Use it as CLIP_API_KEY, or as Authorization: Bearer KEY.", "dim"))


@click.command()
@json_option
def list_keys(out: Output) -> None:
    """List the keys: ids, names and scopes."""
    with connect() as control:
        keys = control.keys()
    if out.json:
        out.document({"keys": keys})
        return
    rows: list[list[Part]] = [
        [
            str(key["id"]),
            (str(key["name"]), "bold"),
            ", ".join(key["scopes"]),
            stamp(key.get("created_at")),
            ("revoked", "red") if key.get("revoked_at") else ("active", "green"),
        ]
        for key in keys
    ]
    out.table(["ID", "NAME", "SCOPES", "CREATED", "STATE"], rows)


@click.command()
@click.argument("key_id", metavar="ID", help="The key's id, from `clip key list`.")
@json_option
def revoke(key_id: str, out: Output) -> None:
    """Revoke a key: it is refused from now on."""
    with connect() as control:
        try:
            key = control.revoke_key(key_id)
        except ClipperError as error:
            if error.status == 404:
                error.add_note("`clip key list` shows the ids")
            raise
    if out.json:
        out.document(key)
    else:
        out.line((f"{OK} ", "green"), f"Revoked {key.get('name', key_id)} ({key_id})")
