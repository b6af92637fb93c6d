"""Where the paths that callers write lead to: queues by `project/function` and `project/function@version`.

A platform has thousands of projects and changes one at a time, so that a change looks at what belongs to its project
and leaves everything else where it is. None of the methods awaits: callers see a project before a change or after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from clipper_platform.serving.split import Split
from clipper_platform.types import FunctionId

__all__ = ["Routes"]

QueueT = TypeVar("QueueT")


class _Project(Generic[QueueT]):
    """What is known of one project; `current`: the version that callers get who name none."""

    __slots__ = ("current", "queues", "weights")

    def __init__(self) -> None:
        self.current: int | None = None
        self.queues: dict[FunctionId, QueueT] = {}
        self.weights: dict[int, int] = {}  # version -> percent, while versions share its calls


class Routes(Generic[QueueT]):
    """The queues, and which of them a path leads to. A project without a current version is not there for callers,
    whatever runs of it."""

    def __init__(self) -> None:
        self.queues: dict[FunctionId, QueueT] = {}
        # The hot look-up: one object for good, changed in place, so that its readers may keep it.
        self.routed: dict[str, QueueT] = {}
        self.splits: dict[str, Split[QueueT]] = {}  # paths that several queues share, which are not in `routed`
        self._projects: dict[str, _Project[QueueT]] = {}

    # Queues

    def add(self, id: FunctionId, queue: QueueT) -> None:
        """From now on the queue is that of `id`, and callers get it where the route says so."""
        project = self._project(id.project)
        self.queues[id] = project.queues[id] = queue
        self._lead(project, id)

    def remove(self, id: FunctionId) -> None:
        """It is not there any more. Nothing happens where none is."""
        project = self._projects.get(id.project)
        if project is None or self.queues.pop(id, None) is None:
            return
        del project.queues[id]
        self._lead(project, id)
        self._tidy(id.project, project)

    def versions(self, project: str) -> set[int]:
        """Those that have queues."""
        return {id.version for id in self._queues_of(project)}

    def has(self, project: str, function: str) -> bool:
        """Whether any version of the function has a queue."""
        return any(id.function == function for id in self._queues_of(project))

    def of(self, project: str, version: int) -> dict[str, QueueT]:
        """The queues of a version, by function."""
        return {id.function: queue for id, queue in self._queues_of(project).items() if id.version == version}

    def _queues_of(self, project: str) -> Mapping[FunctionId, QueueT]:
        found = self._projects.get(project)
        return {} if found is None else found.queues

    # Routes

    def current(self, project: str) -> int | None:
        """The version that callers get who name none; None where the project is not there for them."""
        found = self._projects.get(project)
        return None if found is None else found.current

    def set_route(self, project: str, version: int) -> None:
        """From now on the project's functions are those of this version, all at once, and of no other."""
        self._change(project, version, {})

    def set_weights(self, project: str, weights: Mapping[int, int]) -> None:
        """Let versions share the calls of the project by percent, until the next call or `set_route`; {} ends it.

        A function that only one of them has is answered as by the route alone.
        """
        self._change(project, self.current(project), weights)

    def drop_route(self, project: str) -> None:
        """The project is not there any more for callers."""
        self._change(project, None, {})

    def _change(self, name: str, current: int | None, weights: Mapping[int, int]) -> None:
        project = self._project(name)
        project.current, project.weights = current, dict(weights)
        for id in project.queues:
            self._lead(project, id)
        self._tidy(name, project)

    # Where paths lead

    def _lead(self, project: _Project[QueueT], id: FunctionId) -> None:
        """Have the two paths of a function version lead to where they should now."""
        pinned, path = str(id), id.path
        self.splits.pop(path, None)
        if project.current is None:
            self._put(pinned, None)
            self._put(path, None)
            return
        queues = project.queues
        self._put(pinned, queues.get(id))
        queue = queues.get(FunctionId(id.project, id.function, project.current))
        if queue is not None and project.weights:
            found = (
                (queues.get(FunctionId(id.project, id.function, v)), share) for v, share in project.weights.items()
            )
            shares = [(queue, share) for queue, share in found if queue is not None]
            if len(shares) > 1:
                self.splits[path] = Split(shares)
                queue = None
        self._put(path, queue)

    def _put(self, path: str, queue: QueueT | None) -> None:
        if queue is None:
            self.routed.pop(path, None)
        else:
            self.routed[path] = queue

    def _project(self, name: str) -> _Project[QueueT]:
        found = self._projects.get(name)
        if found is None:
            found = self._projects[name] = _Project()
        return found

    def _tidy(self, name: str, project: _Project[QueueT]) -> None:
        if project.current is None and not project.queues:
            del self._projects[name]
