"""What an application declares: a name that clients query, linked to functions through a selection policy.

The same keys serve the control API, `clip app create` and `[apps.NAME]` of `clip.toml`. A refusal (`SpecError`) names
the key, the value and what is allowed. Options of a policy are validated by the platform, which has the policies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

import msgspec

from clipper.contract.rules import (
    POSITIVE_SECONDS,
    Rule,
    SpecError,
    check_name,
    json_value,
    key_word,
    nearest,
    shown,
    unknown_key,
)
from clipper.contract.spec import RESERVED_NAMES

__all__ = [
    "INPUT_TYPES",
    "LOSSES",
    "MAX_CONTEXT_LENGTH",
    "MAX_LINKS",
    "NO_MODELS",
    "POLICIES",
    "RESERVED_APPLICATIONS",
    "TOO_LATE",
    "ApplicationSpec",
    "InputType",
    "LinkSpec",
    "check_application_name",
    "check_links",
]

InputType = Literal["integers", "floats", "doubles", "bytes", "strings"]
INPUT_TYPES: Final = ("integers", "floats", "doubles", "bytes", "strings")
"""`integers`, `floats` and `doubles`: a list of numbers. `bytes`: a base64 string. `strings`: a string."""

POLICIES: Final = (
    *("single", "split", "shadow", "epsilon_greedy", "ucb1", "thompson", "exp3", "exp4", "majority", "mean"),
)  # fmt: skip
"""The selection policies that the platform has; a user's own is named by its function, `project/function`."""

LOSSES: Final = ("zero_one", "absolute", "squared", "reported")

RESERVED_APPLICATIONS: Final = RESERVED_NAMES | {"dashboard", "docs"}
"""First segments of the platform's own routes."""

MAX_LINKS: Final = 64
MAX_CONTEXT_LENGTH: Final = 256

# Explanations of a default output, in the words of Clipper's own front end.
NO_MODELS: Final = "No connected models found for query"
TOO_LATE: Final = "Failed to retrieve a prediction response within the specified latency SLO"

_FUNCTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}/[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
_PARAMETER = re.compile(r"[^\W\d]\w{0,254}\Z")

_VERSION = Rule(int, low=1, high=2**53)
_WEIGHT = Rule(float, low=0, high=1)
_RULES: Final = {
    "input_type": Rule(str, choices=INPUT_TYPES),
    "latency_slo_s": POSITIVE_SECONDS,
    "loss": Rule(str, choices=LOSSES),
    "loss_scale": Rule(float, above=0),
    "seed": Rule(int, low=0, high=2**53),
    "feedback_window_s": POSITIVE_SECONDS,
    "max_contexts": Rule(int, low=1, high=1_000_000),
    "public": Rule(bool),
}
_OPTIONAL: Final = frozenset({"seed"})

# Weights are decimal fractions that people write: 0.1 + 0.2 + 0.7 is not exactly 1.
_SUM_TOLERANCE: Final = 1e-6


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A function that an application asks: its current version, or the pinned one.

    The application's input is the argument `parameter`, by default the function's only one. `weight`: the link's share
    of the calls under the policy `split`.
    """

    function: str  # "project/function"
    version: int | None = None
    parameter: str | None = None
    weight: float | None = None

    @property
    def id(self) -> str:
        """What selection policies call it: `project/function` or `project/function@3`."""
        return self.function if self.version is None else f"{self.function}@{self.version}"

    @property
    def project(self) -> str:
        return self.function.partition("/")[0]

    @property
    def name(self) -> str:
        """The function's name within its project."""
        return self.function.partition("/")[2]

    @classmethod
    def parse(cls, value: object, *, where: str = "link") -> Self:
        """From `"project/function"`, `"project/function@3"` or a table of the keys. Raises SpecError."""
        table: Mapping[Any, Any] = {"function": value} if isinstance(value, str) else value  # type: ignore[assignment]
        if not isinstance(table, Mapping):
            raise SpecError(f'{shown(value)} is not a link: write "project/function"', where=where, key="links")
        for key in table:
            if key not in cls.__struct_fields__:
                raise unknown_key(key_word(key), cls.__struct_fields__, where)
        function, version = _address(table.get("function"), where)
        given = table.get("version")
        if given is not None:
            given = _VERSION.check("version", given, where)
            if version is not None and version != given:
                raise SpecError(f"version = {given} contradicts {shown(table['function'])}", where=where, key="version")
            version = given
        parameter, weight = table.get("parameter"), table.get("weight")
        if parameter is not None and not (isinstance(parameter, str) and _PARAMETER.match(parameter)):
            raise SpecError(
                f"parameter = {shown(parameter)} is not allowed: it must be the name of a parameter of the function",
                where=where,
                key="parameter",
            )
        if weight is not None:
            weight = _WEIGHT.check("weight", weight, where)
        return cls(function=function, version=version, parameter=parameter, weight=weight)


class ApplicationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an application declares. Times in seconds."""

    name: str
    input_type: InputType
    default_output: Any  # what is answered where no model answered in time
    latency_slo_s: float = 0.1  # by then every prediction is answered
    policy: str = "single"  # one of POLICIES, or "project/function" of the user's own
    policy_options: dict[str, Any] = {}
    loss: str = "zero_one"  # how an answer is compared with the label of its feedback
    loss_scale: float = 1.0  # of the losses `absolute` and `squared`: the error that counts as 1
    seed: int | None = None  # makes the policy's choices repeatable
    feedback_window_s: float = 3600.0  # how long after a prediction its feedback is taken
    max_contexts: int = 10_000  # contexts with a state of their own; older ones are folded into the shared one
    public: bool = False  # queried without a key on any bind
    links: tuple[LinkSpec, ...] = ()

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The keys that an `[apps.NAME]` table may set."""
        return tuple(key for key in cls.__struct_fields__ if key != "name")

    @classmethod
    def parse(cls, name: object, table: object, *, where: str = "") -> Self:
        """A spec from a table of the keys but `name`. Raises SpecError."""
        where = where or f"[apps.{name}]"
        name = check_application_name(name, where=where)
        if not isinstance(table, Mapping):
            raise SpecError("an application must be a table of its keys", where=where)
        for key in table:
            if key not in cls.option_names():
                raise unknown_key(key_word(key), cls.option_names(), where)
        for key in ("input_type", "default_output"):
            if key not in table:
                raise SpecError(f"{key} is missing", where=where, key=key)
        values: dict[str, Any] = {
            key: rule.check(key, table[key], where)
            for key, rule in _RULES.items()
            if key in table and not (key in _OPTIONAL and table[key] is None)
        }
        values["default_output"] = json_value(table["default_output"], where)
        values["policy"] = _policy(table.get("policy", "single"), where)
        values["policy_options"] = _policy_options(table.get("policy_options", {}), where)
        links = table.get("links", ())
        if not isinstance(links, (list, tuple)):
            raise SpecError(f"links = {shown(links)} is not allowed: it must be a list", where=where, key="links")
        values["links"] = tuple(LinkSpec.parse(link, where=f"{where} links[{i}]") for i, link in enumerate(links))
        check_links(values["links"], where=where)
        return cls(name=name, **values)

    def to_dict(self) -> dict[str, Any]:
        """The reverse of `parse`, with `name`."""
        table: dict[str, Any] = msgspec.to_builtins(self)
        return table


def check_application_name(name: object, *, where: str = "") -> str:
    """Return `name` if an application may have it, whatever others there are, else raise SpecError."""
    checked = check_name(name, "application", where=where)
    if checked.lower() in RESERVED_APPLICATIONS:
        raise SpecError(
            f"application name {shown(checked)} is not allowed: /{checked} is a route of the platform",
            where=where,
            key="name",
        )
    return checked


def check_links(links: Sequence[LinkSpec], *, where: str = "", whole: bool = True) -> None:
    """Raise SpecError for a link that stands there twice, and for weights that are not those of a whole.

    `whole=False`: more links may follow, so that weights may still sum to less than 1.
    """
    if len(links) > MAX_LINKS:
        raise SpecError(f"{len(links)} links are not allowed: at most {MAX_LINKS}", where=where, key="links")
    ids = [link.id for link in links]
    for id in ids:
        if ids.count(id) > 1:
            raise SpecError(f"{id} is linked twice; keep one", where=where, key="links")
    weights = [link.weight for link in links if link.weight is not None]
    if not weights:
        return
    if len(weights) < len(links):
        without = next(link.id for link in links if link.weight is None)
        raise SpecError(f"{without} has no weight: give every link one, or none", where=where, key="weight")
    total = sum(weights)
    if total > 1 + _SUM_TOLERANCE or (whole and total < 1 - _SUM_TOLERANCE):
        raise SpecError(f"the weights of the links sum to {total:g}, they must sum to 1", where=where, key="weight")


def _address(value: object, where: str) -> tuple[str, int | None]:
    """Function and version of `project/function[@version]`."""
    function, at, version = value.partition("@") if isinstance(value, str) else ("", "", "")
    if not _FUNCTION.match(function) or (at and not re.fullmatch(r"[1-9][0-9]{0,15}", version)):
        raise SpecError(
            f'function = {shown(value)} is not allowed: write "project/function", or "project/function@3"',
            where=where,
            key="function",
        )
    return function, int(version) if at else None


def _policy(value: object, where: str) -> str:
    if isinstance(value, str) and (value in POLICIES or _FUNCTION.match(value)):
        return value
    guess = nearest(value, POLICIES) if isinstance(value, str) else None
    hint = f"did you mean {guess!r}?" if guess else f"one of {', '.join(POLICIES)}, or project/function of your own"
    raise SpecError(f"policy = {shown(value)} is not allowed: {hint}", where=where, key="policy")


def _policy_options(value: object, where: str) -> dict[str, Any]:
    options = json_value(value, where, key="policy_options")
    if not isinstance(options, dict):
        raise SpecError(
            f"policy_options = {shown(value)} is not allowed: it must be a table", where=where, key="policy_options"
        )
    return options
