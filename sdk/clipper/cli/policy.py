"""`clip policy …`: autoscaling policies as files, checked and applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clipper.cli.console import OK, Output, Part
from clipper.cli.names import Target, named_function
from clipper.cli.options import connect, function_argument, json_option
from clipper.cli.policyfile import policy_argument, read_policy
from clipper.cli.text import scalar, stamp
from clipper.contract.cron import never
from clipper.contract.spec import AutoscalingPolicy, SpecError

__all__ = ["apply", "check", "reset", "show"]


@click.command()
@policy_argument
@json_option
def check(file: Path, out: Output) -> None:
    """Check a policy file, and show what it says.

    Needs no platform.
    """
    policy, table, digest = read_policy(file)
    _check_schedules(policy, file.name)
    advice = _advice(policy)
    if out.json:
        out.document({"file": str(file), "digest": digest, "policy": policy.to_dict(), "notes": advice})
        return
    out.line((f"{OK} ", "green"), (file.name, "bold"), " is a policy")
    _show_policy(out, policy.to_dict(), table)
    for note in advice:
        out.note(("! ", "yellow"), note, wrap=True)


def _check_schedules(policy: AutoscalingPolicy, where: str) -> None:
    """Raises SpecError for a cron expression that the platform would refuse."""
    for number, schedule in enumerate(policy.schedule, 1):
        if why := never(schedule.cron):
            raise SpecError(
                f"cron = {schedule.cron!r} is not allowed: {why}", where=f"{where} [[schedule]] {number}", key="cron"
            )


def _advice(policy: AutoscalingPolicy) -> list[str]:
    """Notes on settings that are allowed but seldom intended."""
    notes = []
    if policy.min_replicas == 0 and 0 < policy.downscale_to_zero_delay_s < policy.downscale_delay_s:
        notes.append(
            f"downscale_to_zero_delay_s = {policy.downscale_to_zero_delay_s:g} is below downscale_delay_s = "
            f"{policy.downscale_delay_s:g}: the second delay is waited for first where there are several replicas"
        )
    if policy.min_replicas == policy.max_replicas and not policy.schedule:
        notes.append(f"min_replicas = max_replicas = {policy.min_replicas}: nothing else in the policy has an effect")
    if policy.upscale_delay_s > policy.stable_window_s:
        notes.append(
            f"upscale_delay_s = {policy.upscale_delay_s:g} is longer than stable_window_s = {policy.stable_window_s:g}:"
            " only bursts (panic_threshold) add replicas in time"
        )
    return notes


def _show_policy(out: Output, effective: dict[str, Any], given: dict[str, Any]) -> None:
    rows: list[list[Part]] = [
        [(f"  {key}", "bold" if key in given else ""), scalar(value), ("" if key in given else "default", "dim")]
        for key, value in effective.items()
        if key != "schedule"
    ]
    for schedule in effective.get("schedule", ()):
        bounds = f"{schedule['min_replicas']} to {schedule.get('max_replicas', effective['max_replicas'])} replicas"
        zone = schedule.get("timezone", "UTC")
        rows.append([("  schedule", "bold"), f"{schedule['cron']} {zone}", f"{schedule['duration_s']:g} s, {bounds}"])
    out.table(["  KEY", "VALUE", ""], rows)


@click.command()
@function_argument
@policy_argument
@json_option
def apply(function: Target, file: Path, out: Output) -> None:
    """Apply a policy file to a running function, now.

    It stays through deploys until the project's own policy changes. To keep it, attach it in clip.toml.
    """
    policy, table, digest = read_policy(file)
    with connect() as control, named_function(control, function) as target:
        result = control.put_policy(target.project, str(target.function), policy.to_dict(), digest)
    if out.json:
        out.document(result)
        return
    out.line((f"{OK} ", "green"), (str(target), "bold"), f" has the policy of {file.name} from now on")
    _show_policy(out, result["policy"], table)
    out.line((f"  To undo: clip policy reset {target}", "dim"))


@click.command()
@function_argument
@json_option
def show(function: Target, out: Output) -> None:
    """Show the policy that a function has now."""
    with connect() as control, named_function(control, function) as target:
        result = control.policy(target.project, str(target.function))
    if out.json:
        out.document(result)
        return
    applied = result["source"] == "applied"
    source = f"applied {stamp(result['applied_at'])}" if applied else "as deployed"
    out.line((str(target), "bold"), f"  {source}")
    _show_policy(out, result["policy"], _differing(result["policy"]))


def _differing(policy: dict[str, Any]) -> dict[str, Any]:
    usual = AutoscalingPolicy().to_dict()
    return {key: value for key, value in policy.items() if value != usual.get(key)}


@click.command()
@function_argument
@json_option
def reset(function: Target, out: Output) -> None:
    """Return to the policy that the function was deployed with."""
    with connect() as control, named_function(control, function) as target:
        result = control.delete_policy(target.project, str(target.function))
    if out.json:
        out.document(result)
    else:
        out.line((f"{OK} ", "green"), (str(target), "bold"), " has the policy again that it was deployed with")
