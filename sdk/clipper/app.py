"""`clipper.App`: queries an application, whatever models answer for it, and tells it which answers were right."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack, cast
from urllib.parse import quote

from clipper import errors
from clipper.address import FunctionAddress
from clipper.client import Client, shared_client
from clipper.codec import decode_json
from clipper.contract.applications import ApplicationSpec, InputType, check_application_name
from clipper.contract.media_types import JSON
from clipper.control import ControlClient
from clipper.retrying import Request

__all__ = ["App", "AppOptions", "Prediction"]

_NOTHING: Final[Any] = object()  # an argument that was not given, where None is a value


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """An application's answer.

    `default`: no model answered in time, `output` is the application's default output and `default_explanation` says
    why. `confidence` is from 0 to 1: the part of the models that agree with `output`, of those that were asked.
    `models` are the functions that made the output, as in "digits/classify". `query_id` is what `feedback` takes.
    """

    output: Any
    query_id: int | str
    default: bool
    default_explanation: str | None = None
    confidence: float | None = None
    models: tuple[str, ...] = ()


class AppOptions(TypedDict, total=False):
    """Keywords of `App.create` beside the input type and the default output: the keys of `[apps.NAME]`."""

    latency_slo_s: float
    policy: str
    policy_options: Mapping[str, Any]
    loss: str
    loss_scale: float
    seed: int | None
    feedback_window_s: float
    max_contexts: int
    public: bool
    links: Sequence[str | Mapping[str, Any]]


class App:
    """An application by its name. `predict`, `predict_batch` and `feedback` block; `.aio` of each is awaited.

    Arrays (numpy, pandas, torch, anything with `tolist`) and lists are inputs of numbers, bytes travel as base64.
    Every call raises ClipperError, and TypeError or ValueError for what JSON cannot carry.
    """

    def __init__(self, name: str, *, timeout_s: float | None = None, client: Client | None = None) -> None:
        self.name = check_application_name(name)
        self._timeout_s = timeout_s
        self._client = client
        self.predict = _Predict(self)
        self.predict_batch = _PredictBatch(self)
        self.feedback = _Feedback(self)

    @classmethod
    def from_name(cls, name: str, *, timeout_s: float | None = None, client: Client | None = None) -> App:
        """An application of the platform. Nothing is asked of it before the first call. Raises SpecError.

        `timeout_s` bounds a call with its retries; the application itself answers within its objective.
        """
        return cls(name, timeout_s=timeout_s, client=client)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        input_type: InputType,
        default_output: Any,
        replace: bool = False,
        client: Client | None = None,
        **options: Unpack[AppOptions],
    ) -> App:
        """A new application. `links` are functions, as in "digits/classify" or "digits/classify@3", or tables with
        `function`, `parameter` and `weight`. With `replace`, one of this name becomes what is said here.

        Raises SpecError naming the key, Conflict where there is one of this name, NotFound for an unknown function.
        """
        table = {"input_type": input_type, "default_output": default_output, **options}
        spec = ApplicationSpec.parse(name, table, where=f"clipper.App.create({name!r})").to_dict()
        app = cls(name, client=client)
        with app._control() as control:
            control.put_app(name, spec) if replace else control.create_app(spec)
        return app

    def link(self, function: str, *, parameter: str | None = None, weight: float | None = None) -> None:
        """Link a function, as in "digits/classify"; "digits/classify@3" stays at that version.

        The input is its argument `parameter`, by default its only one. Raises NotFound, Conflict, SpecError.
        """
        with self._control() as control:
            control.link_app(self.name, FunctionAddress.parse(function), parameter=parameter, weight=weight)

    def unlink(self, function: str) -> None:
        """Remove a link. Raises NotFound where there is none."""
        with self._control() as control:
            control.unlink_app(self.name, FunctionAddress.parse(function))

    def status(self) -> dict[str, Any]:
        """Its spec and how each linked function does, as `infra/docs/control-api.md` describes it. Raises NotFound."""
        with self._control() as control:
            return control.app(self.name)

    def explain(self, context: str | None = None) -> dict[str, Any]:
        """What its policy would choose now, and why; for a context if one is given. Raises NotFound."""
        with self._control() as control:
            return control.explain_app(self.name, context)

    def labelled(self, since: float | None = None) -> Iterator[dict[str, Any]]:
        """Predictions with the labels that came for them, oldest first: what the next model is trained on."""
        with self._control() as control:
            yield from control.app_feedback(self.name, since)

    def delete(self) -> None:
        """Delete it with its feedback; the functions stay. Raises NotFound."""
        with self._control() as control:
            control.delete_app(self.name)

    def __repr__(self) -> str:
        return f"<clipper.App {self.name}>"

    def _control(self) -> ControlClient:
        location = (self._client or shared_client()).location
        return ControlClient(location.url, location.api_key)

    def _send(self, verb: str, body: bytes) -> Any:
        return decode_json((self._client or shared_client()).send(self._request(verb, body)).content)

    async def _asend(self, verb: str, body: bytes) -> Any:
        answer = await (self._client or shared_client()).asend(self._request(verb, body))
        return decode_json(answer.content)

    def _request(self, verb: str, body: bytes) -> Request:
        return Request(
            method="POST",
            path=f"/{quote(self.name, safe='')}/{verb}",
            content=body,
            headers={"Content-Type": JSON},
            timeout_s=self._timeout_s,
            deadline=True,
        )


class _Predict:
    """`app.predict(x)` and `await app.predict.aio(x)`."""

    def __init__(self, owner: App) -> None:
        self._owner = owner

    def __call__(self, input: Any, *, context: str | None = None, version: int | str | None = None) -> Prediction:
        """The prediction for one input. `context` names whose models are chosen, a user or a session; `version` asks
        for that version of the only linked function."""
        return _prediction(self._owner._send("predict", _query({"input": input}, context, version)))

    async def aio(self, input: Any, *, context: str | None = None, version: int | str | None = None) -> Prediction:
        """`predict`, awaited; cancelling it closes the connection, which cancels the query."""
        return _prediction(await self._owner._asend("predict", _query({"input": input}, context, version)))


class _PredictBatch:
    """`app.predict_batch(xs)` and `await app.predict_batch.aio(xs)`."""

    def __init__(self, owner: App) -> None:
        self._owner = owner

    def __call__(
        self, inputs: Iterable[Any], *, context: str | None = None, version: int | str | None = None
    ) -> list[Prediction]:
        """A prediction per input (a row of an array), in their order, by one request."""
        rows = _rows(inputs)
        if not rows:
            return []
        return _predictions(self._owner._send("predict", _query({"input_batch": rows}, context, version)), len(rows))

    async def aio(
        self, inputs: Iterable[Any], *, context: str | None = None, version: int | str | None = None
    ) -> list[Prediction]:
        """`predict_batch`, awaited."""
        rows = _rows(inputs)
        if not rows:
            return []
        answer = await self._owner._asend("predict", _query({"input_batch": rows}, context, version))
        return _predictions(answer, len(rows))


class _Feedback:
    """`app.feedback(query_id, label)` and `await app.feedback.aio(query_id, label)`."""

    def __init__(self, owner: App) -> None:
        self._owner = owner

    def __call__(
        self,
        query_id: int | str | Prediction | None = None,
        label: Any = _NOTHING,
        *,
        input: Any = _NOTHING,
        context: str | None = None,
    ) -> None:
        """Tell what the right answer was: of a prediction, by its `query_id`, or of an `input`. With the loss
        "reported", the label is the loss itself. Counts once, however often it is sent."""
        self._owner._send("update", _update(query_id, label, input, context))

    async def aio(
        self,
        query_id: int | str | Prediction | None = None,
        label: Any = _NOTHING,
        *,
        input: Any = _NOTHING,
        context: str | None = None,
    ) -> None:
        """`feedback`, awaited."""
        await self._owner._asend("update", _update(query_id, label, input, context))


def _query(body: dict[str, Any], context: str | None, version: int | str | None) -> bytes:
    if context is not None:
        body["context"] = context
    if version is not None:
        body["version"] = version
    return _encoded(body)


def _update(query_id: int | str | Prediction | None, label: Any, input: Any, context: str | None) -> bytes:
    if label is _NOTHING:
        raise TypeError("feedback needs a label: feedback(query_id, label), or feedback(input=x, label=label)")
    if (query_id is None) == (input is _NOTHING):
        raise TypeError("feedback takes either a query_id or an input")
    body: dict[str, Any] = {"label": label}
    if query_id is not None:
        body["query_id"] = query_id.query_id if isinstance(query_id, Prediction) else query_id
    else:
        body["input"] = input
    if context is not None:
        body["context"] = context
    return _encoded(body)


def _rows(inputs: Any) -> list[Any]:
    """The inputs of a batch as a list. Raises TypeError for a single input."""
    if isinstance(inputs, (str, bytes, bytearray, memoryview, Mapping)):
        raise TypeError(f"predict_batch takes inputs in a list, not one {type(inputs).__name__}; use predict")
    if hasattr(inputs, "to_numpy"):  # a table of pandas, which iterates over the names of its columns
        inputs = inputs.to_numpy()
    return cast(list[Any], inputs.tolist()) if hasattr(inputs, "tolist") else list(inputs)


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode()
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        raise ValueError("an input holds NaN or an infinity, which JSON does not have") from None


def _plain(value: Any) -> Any:
    """A value that `json` does not know as one that it does. Raises TypeError."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    kind = type(value)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no input; use numbers, text, bytes, lists or arrays")


def _prediction(answer: Any) -> Prediction:
    if not isinstance(answer, dict) or "output" not in answer or "query_id" not in answer:
        raise errors.UnexpectedAnswer("the answer is no prediction; does something else answer at this address?")
    return Prediction(
        output=answer["output"],
        query_id=answer["query_id"],
        default=bool(answer.get("default", False)),
        default_explanation=answer.get("default_explanation"),
        confidence=answer.get("confidence"),
        models=tuple(answer.get("models") or ()),
    )


def _predictions(answer: Any, wanted: int) -> list[Prediction]:
    """Those of a batch; Clipper's contract answers a batch of one with the bare object."""
    batch = answer.get("batch_predictions") if isinstance(answer, dict) else None
    found = [_prediction(one) for one in batch] if isinstance(batch, list) else [_prediction(answer)]
    if len(found) != wanted:
        raise errors.UnexpectedAnswer(f"{wanted} inputs were sent and {len(found)} predictions came back")
    return found
