"""The table of commands against the commands themselves, and the group that imports them one at a time."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click
import pytest

from clipper.cli.commands import clip
from clipper.cli.lazy_group import Entry, LazyGroup


def entries(group: LazyGroup, path: str = "") -> Iterator[tuple[str, Entry]]:
    for name, entry in group.entries.items():
        if isinstance(entry, Entry):
            yield f"{path}{name}", entry
        else:
            yield from entries(entry, f"{path}{name} ")


assert isinstance(clip, LazyGroup)
ALL = dict(entries(clip))


@pytest.mark.parametrize("name", ALL)
def test_the_table_has_the_first_line_of_the_commands_help(name: str) -> None:
    help = ALL[name].load().help or ""
    assert ALL[name].summary == help.splitlines()[0]


@pytest.mark.parametrize("name", ALL)
def test_a_command_takes_the_parameters_that_it_declares(name: str) -> None:
    command = ALL[name].load()
    assert command.callback is not None
    parameters = inspect.signature(command.callback).parameters.values()
    declared = {parameter.name for parameter in command.params}
    taken = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert taken <= declared
    assert taken == declared or any(p.kind is p.VAR_KEYWORD for p in parameters)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_help_and_every_page_fits_80_columns(name: str) -> None:
    command = ALL[name].load()
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []
    page = command.get_help(click.Context(command, info_name=f"clip {name}", terminal_width=80))
    assert max(map(len, page.splitlines())) <= 80


def test_only_the_command_that_is_asked_for_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name in ("clipper.cli.keys", "clipper.cli.secrets")]:
        monkeypatch.delitem(sys.modules, module)
    context = click.Context(clip)
    key = clip.get_command(context, "key")
    assert isinstance(key, LazyGroup)
    assert key.list_commands(context) == ["create", "list", "revoke"]
    assert "clipper.cli.keys" not in sys.modules
    command = key.get_command(context, "list")
    assert command is not None
    assert command.help == key.entries["list"].summary
    assert "clipper.cli.keys" in sys.modules
    assert "clipper.cli.secrets" not in sys.modules


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lst", "No such command 'lst'. Did you mean 'list'?"),
        ("key lst", "No such command 'lst'. Did you mean 'list'?"),
        ("list --jsno", "No such option '--jsno'. Did you mean '--json'?"),
        ("logs digits/f --tail many", "'many' is not a valid integer"),
        ("logs digits/f --since yesterday", "Invalid value for '--since': 'yesterday' is not a time"),
        ("up --backend dcoker", "'dcoker' is not one of 'process', 'docker'"),
        ("rollback a/b", "takes a project: a"),
        ("key create ci --scope invoke,root", "'root' is not one of invoke, deploy, admin"),
        ("invoke digits/f --json-input {", "Invalid value for '--json-input': not JSON"),
    ],
)
def test_a_mistake_names_the_parameter_and_what_is_allowed(line: str, message: str) -> None:
    with pytest.raises(click.UsageError) as raised, clip.make_context("clip", line.split()) as context:
        clip.invoke(context)
    assert message in raised.value.format_message()
    assert raised.value.ctx is not None


def test_completion_offers_names_with_their_summaries_and_imports_no_command() -> None:
    context = click.Context(clip, info_name="clip", resilient_parsing=True)
    before = set(sys.modules)
    found = {item.value: item.help for item in clip.shell_complete(context, "de")}
    assert found == {
        "deploy": "Deploy a directory and wait until it answers.",
        "dev": "Deploy a directory on every save, until Ctrl-C.",
        "delete": "Delete a project.",
    }
    assert not {name for name in set(sys.modules) - before if name.startswith("clipper.cli.")}
    assert [item.value for item in clip.shell_complete(context, "--ins")] == ["--install-completion"]
