"""Applications: what they declare, and how their models do."""

from __future__ import annotations

from typing import Any

from msgspec import field

from clipper.contract.applications import InputType, LinkSpec
from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = [
    "ApplicationChange",
    "ApplicationExplanation",
    "ApplicationInfo",
    "ApplicationList",
    "ApplicationRequest",
    "ApplicationSummary",
    "DeletedApplication",
    "FeedbackCounts",
    "LinkInfo",
    "LinkRequest",
    "ModelOutlook",
]


class ApplicationRequest(RequestBody, frozen=True):
    """What `PUT` takes, and with a `name` `POST`; only shown: the handler reads the body itself, with better words for
    what is refused."""

    input_type: InputType
    default_output: Any
    name: str = ""
    latency_slo_s: float = 0.1
    policy: str = "single"
    policy_options: dict[str, Any] = field(default_factory=dict)
    loss: str = "zero_one"
    loss_scale: float = 1.0
    seed: int | None = None
    feedback_window_s: float = 3600.0
    max_contexts: int = 10_000
    public: bool = False
    links: list[str | LinkSpec] = field(default_factory=list)


class LinkRequest(RequestBody, frozen=True):
    """`parameter`: the argument that the input becomes; None: the function's only one."""

    parameter: str | None = None
    weight: float | None = None


class LinkInfo(ResponseBody, frozen=True):
    """`id`: what selection policies and answers call the link. `answers`: the version that is asked now, None where
    none can be; `state` says why.

    Of `asked` queries the model answered `answered`; its answer was given, alone or with others, `given` times. `loss`:
    the mean over all `feedbacks`, `recent_loss` over the newest 100. `agreement`: the mean share of the other models
    that gave the same answer. None: not known yet.
    """

    id: str
    function: str
    version: int | None
    parameter: str | None
    weight: float | None
    state: str
    answers: int | None
    asked: int
    answered: int
    given: int
    feedbacks: int
    loss: float | None
    recent_loss: float | None
    agreement: float | None


class FeedbackCounts(ResponseBody, frozen=True):
    """`unknown`: about predictions that were not made, or too long ago. `invalid`: with a label of the wrong type."""

    joined: int
    duplicate: int
    unknown: int
    invalid: int


class ApplicationSummary(ResponseBody, frozen=True):
    name: str
    url: str
    input_type: str
    policy: str
    latency_slo_s: float
    links: list[str]
    updated_at: float


class ApplicationList(ResponseBody, frozen=True):
    applications: list[ApplicationSummary]


class ApplicationInfo(ResponseBody, frozen=True):
    """`url`: where it is queried. `predictions`: answers of models; `defaults`: of the default output. `contexts`: how
    many have a state of their own. `notice`: what keeps it from working as declared; "" where nothing does."""

    name: str
    url: str
    input_type: str
    default_output: Any
    latency_slo_s: float
    policy: str
    policy_options: dict[str, Any]
    loss: str
    loss_scale: float
    seed: int | None
    feedback_window_s: float
    max_contexts: int
    public: bool
    links: list[LinkInfo]
    created_at: float
    updated_at: float
    predictions: int
    defaults: int
    feedback: FeedbackCounts
    contexts: int
    notice: str


class ApplicationChange(ResponseBody, frozen=True):
    """`changed`: whether anything was; the application is as it was asked for either way."""

    changed: bool
    application: ApplicationInfo


class DeletedApplication(ResponseBody, frozen=True):
    deleted: str


class ModelOutlook(ResponseBody, frozen=True):
    """What the policy thinks of a model. `share`: how probably it is chosen, or how much its answer counts.
    `feedbacks`: how many losses it goes by; `loss`: their mean, None without any."""

    model: str
    share: float
    feedbacks: float
    loss: float | None
    why: str


class ApplicationExplanation(ResponseBody, frozen=True):
    """What the policy would choose now, and why. `known`: whether the context has a state of its own."""

    name: str
    context: str
    known: bool
    policy: str
    choice: str
    models: list[ModelOutlook]
    notice: str
