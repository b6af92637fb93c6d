"""The commands of `clip` by name: where each one is, and the line that `clip --help` says of it.

A table, so that a command line loads the module of its own command only; a test holds it against the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["COMMANDS", "Command", "Group", "find"]


class Command(NamedTuple):
    """`target` is "module:function" below `clipper.cli`; `summary` the first line of its docstring."""

    target: str
    summary: str
    panel: str | None = None

    def load(self) -> Callable[..., Any]:
        module, _, name = self.target.partition(":")
        function: Callable[..., Any] = getattr(import_module(f"clipper.cli.{module}"), name)
        return function


class Group(NamedTuple):
    """Commands under one name, as in `clip key list`."""

    summary: str
    panel: str
    commands: dict[str, Command]


_BUILD, _LOOK, _CHANGE = "Build and call", "Look", "Change and manage"

COMMANDS: dict[str, Command | Group] = {
    "init": Command("init:init", "Make a working project to start from.", _BUILD),
    "up": Command("up:up", "Run the platform here, until Ctrl-C.", _BUILD),
    "deploy": Command("deploy:deploy", "Deploy a directory and wait until it answers.", _BUILD),
    "dev": Command("dev:dev", "Deploy a directory on every save, until Ctrl-C.", _BUILD),
    "invoke": Command("invoke:invoke", "Call a function once and print its answer.", _BUILD),
    "list": Command("look:list_projects", "List what is deployed.", _LOOK),
    "status": Command("look:status", "Show how a project or function is doing.", _LOOK),
    "versions": Command("look:versions", "List a project's versions, newest first.", _LOOK),
    "top": Command("top:top", "Watch all functions live: rate, latency, queues, batches, cache, replicas.", _LOOK),
    "logs": Command("logs:logs", "Print a function's log.", _LOOK),
    "explain": Command(
        "policy:explain", "Say why a function has the replicas that it has, and what would change it.", _LOOK
    ),
    "doctor": Command("doctor:doctor", "Check this machine and the platform.", _LOOK),
    "rollback": Command("manage:rollback", "Return to the version before, or to the one given.", _CHANGE),
    "restart": Command("manage:restart", "Start a project's replicas anew, or those of one function.", _CHANGE),
    "delete": Command("manage:delete", "Delete a project.", _CHANGE),
    "config": Group(
        "Show the effective configuration.",
        _LOOK,
        {"show": Command("config:config_show", "Show every option, its value and its source.")},
    ),
    "policy": Group(
        "Check, apply and try out autoscaling policies.",
        _CHANGE,
        {
            "simulate": Command(
                "simulating:simulate",
                "Try a policy out on a virtual clock: the real controller, a calculated function.",
            ),
            "check": Command("policy:check", "Check a policy file, and show what it says."),
            "apply": Command("policy:apply", "Apply a policy file to a running function, now."),
            "show": Command("policy:show", "Show the policy that a function has now."),
            "reset": Command("policy:reset", "Return to the policy that the function was deployed with."),
        },
    ),
    "key": Group(
        "Make, list and revoke API keys.",
        _CHANGE,
        {
            "create": Command("manage:key_create", "Make a key."),
            "list": Command("manage:key_list", "List the keys: ids, names and scopes."),
            "revoke": Command("manage:key_revoke", "Revoke a key: it is refused from now on."),
        },
    ),
    "secret": Group(
        "Set, list and delete a project's secrets.",
        _CHANGE,
        {
            "set": Command("manage:secret_set", "Set a secret, an environment variable of replicas."),
            "list": Command("manage:secret_list", "List the names of a project's secrets."),
            "delete": Command("manage:secret_delete", "Delete a secret; replicas that run keep what they had."),
        },
    ),
}


def find(words: list[str]) -> tuple[Command | None, int]:
    """The command that a line begins with, and how many of its words name it; (None, …) where none is named whole."""
    found = COMMANDS.get(words[0]) if words else None
    if isinstance(found, Command):
        return found, 1
    if found is None or len(words) < 2:
        return None, 0 if found is None else 1
    inner = found.commands.get(words[1])
    return inner, 1 if inner is None else 2
