"""The command `clip` and the table of its commands: where each one is, and the summary that the help shows.

The summaries stand here so that `clip --help` imports no command; a test compares them with the commands' own.
"""

from __future__ import annotations

import click

from clipper.cli import completion
from clipper.cli.lazy_group import Entry, LazyGroup
from clipper.contract.version import VERSION

__all__ = ["clip"]


_CONFIG = {"show": Entry("clipper.cli.config:show", "Show every option, its value and its source.")}

_APP = {
    "Make and change": {
        "create": Entry(
            "clipper.cli.apps:create", "Make an application: a name that clients query, whatever models answer."
        ),
        "set": Entry("clipper.cli.apps:set_app", "Change an application; what is not named stays as it is."),
        "link": Entry("clipper.cli.apps:link", "Link a function to an application, as one of its models."),
        "unlink": Entry("clipper.cli.apps:unlink", "Remove a link; the function itself stays."),
        "delete": Entry("clipper.cli.apps:delete", "Delete an application with its feedback; the functions stay."),
    },
    "Query": {
        "predict": Entry("clipper.cli.app_predict:predict", "Query an application once."),
        "label": Entry("clipper.cli.app_predict:label", "Tell what the right answer of a query was, once."),
    },
    "Look": {
        "list": Entry("clipper.cli.apps:list_apps", "List the applications."),
        "status": Entry("clipper.cli.app_status:status", "Show how an application and its models are doing."),
        "explain": Entry("clipper.cli.app_status:explain", "Say which models an application would ask now, and why."),
        "feedback": Entry(
            "clipper.cli.app_feedback:feedback", "Print the predictions that got feedback, with their labels."
        ),
    },
}

_POLICY = {
    "simulate": Entry(
        "clipper.cli.simulating:simulate",
        "Try a policy out on a virtual clock: the real controller, a calculated function.",
    ),
    "check": Entry("clipper.cli.policy:check", "Check a policy file, and show what it says."),
    "apply": Entry("clipper.cli.policy:apply", "Apply a policy file to a running function, now."),
    "show": Entry("clipper.cli.policy:show", "Show the policy that a function has now."),
    "reset": Entry("clipper.cli.policy:reset", "Return to the policy that the function was deployed with."),
}

_KEY = {
    "create": Entry("clipper.cli.keys:create", "Make a key."),
    "list": Entry("clipper.cli.keys:list_keys", "List the keys: ids, names and scopes."),
    "revoke": Entry("clipper.cli.keys:revoke", "Revoke a key: it is refused from now on."),
}

_SECRET = {
    "set": Entry("clipper.cli.secrets:set_secret", "Set a secret, an environment variable of replicas."),
    "list": Entry("clipper.cli.secrets:list_secrets", "List the names of a project's secrets."),
    "delete": Entry("clipper.cli.secrets:delete", "Delete a secret; replicas that run keep what they had."),
}


def _group(name: str, help: str, commands: dict[str, Entry]) -> LazyGroup:
    return LazyGroup(name, help=help, sections={"Commands": commands})


_SECTIONS: dict[str, dict[str, Entry | LazyGroup]] = {
    "Build and call": {
        "init": Entry("clipper.cli.init:init", "Make a working project to start from."),
        "up": Entry("clipper.cli.up:up", "Run the platform here, until Ctrl-C."),
        "deploy": Entry("clipper.cli.deploy:deploy", "Deploy a directory and wait until it answers."),
        "dev": Entry("clipper.cli.dev:dev", "Deploy a directory on every save, until Ctrl-C."),
        "invoke": Entry("clipper.cli.invoke:invoke", "Call a function once and print its answer."),
        "materialize": Entry(
            "clipper.cli.materialize:materialize", "Compute answers beforehand and keep them where calls find them."
        ),
    },
    "Look": {
        "list": Entry("clipper.cli.look:list_projects", "List what is deployed."),
        "status": Entry("clipper.cli.look:status", "Show how a project or function is doing."),
        "versions": Entry("clipper.cli.look:versions", "List a project's versions, newest first."),
        "top": Entry(
            "clipper.cli.top:top", "Watch all functions live: rate, latency, queues, batches, cache, replicas."
        ),
        "logs": Entry("clipper.cli.logs:logs", "Print a function's log."),
        "explain": Entry(
            "clipper.cli.explain:explain",
            "Say why a function has the replicas that it has, what would change it, and how batches are made.",
        ),
        "doctor": Entry("clipper.cli.doctor:doctor", "Check this machine and the platform."),
        "config": _group("config", "Show the effective configuration.", _CONFIG),
    },
    "Change and manage": {
        "app": LazyGroup("app", help="Applications: choose among models, with feedback.", sections=_APP),
        "rollback": Entry("clipper.cli.manage:rollback", "Return to the version before, or to the one given."),
        "restart": Entry("clipper.cli.manage:restart", "Start a project's replicas anew, or those of one function."),
        "delete": Entry("clipper.cli.manage:delete", "Delete a project."),
        "policy": _group("policy", "Check, apply and try out autoscaling policies.", _POLICY),
        "key": _group("key", "Make, list and revoke API keys.", _KEY),
        "secret": _group("secret", "Set, list and delete a project's secrets.", _SECRET),
    },
}


@click.group(
    cls=LazyGroup,
    help="Deploy Python functions and models, and call them.",
    epilog="Start here: clip init demo, then clip up in another terminal, then clip deploy demo.",
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(VERSION, message="clip %(version)s", help="Print the version.")
@completion.install_option
@completion.show_option
def clip() -> None:
    """The group itself does nothing."""
