"""The queue that each path leads to: `project/function` and `project/function@version`.

A platform has thousands of projects and changes one at a time, so a change looks only at what belongs to its project.
None of the methods awaits: callers see a project before a change or after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from clipper_platform.serving.split import Split
from clipper_platform.types import FunctionId

__all__ = ["Routes"]

QueueT = TypeVar("QueueT")


class _Project(Generic[QueueT]):
    """One project. `current`: the version that a path without a version leads to."""

    __slots__ = ("current", "queues", "weights")

    def __init__(self) -> None:
        self.current: int | None = None
        self.queues: dict[FunctionId, QueueT] = {}
        self.weights: dict[int, int] = {}  # version -> percent, while versions share its calls


class Routes(Generic[QueueT]):
    """The queues, and which of them a path leads to. Without a current version no path leads to a project, whatever
    runs of it."""

    def __init__(self) -> None:
        self.queues: dict[FunctionId, QueueT] = {}
        # The hot look-up: always the same object, changed in place, so that its readers may keep it.
        self.routed: dict[str, QueueT] = {}
        self.splits: dict[str, Split[QueueT]] = {}  # paths that several queues share, which are not in `routed`
        self._projects: dict[str, _Project[QueueT]] = {}

    # Queues

    def add(self, id: FunctionId, queue: QueueT) -> None:
        """Make it the queue of `id`, to which paths lead as the route says."""
        project = self._project(id.project)
        self.queues[id] = project.queues[id] = queue
        self._update(project, id)

    def remove(self, id: FunctionId) -> None:
        """Remove the queue of `id`, if there is one."""
        project = self._projects.get(id.project)
        if project is None or self.queues.pop(id, None) is None:
            return
        del project.queues[id]
        self._update(project, id)
        self._tidy(id.project, project)

    def unpin(self, id: FunctionId) -> None:
        """Let no path name this version until `pin`, or until its route changes."""
        self._put(str(id), None)

    def pin(self, id: FunctionId) -> None:
        """Lead the paths to the queue of `id` again."""
        if id in self.queues:
            self._update(self._projects[id.project], id)

    def of(self, project: str, version: int) -> dict[str, QueueT]:
        """The queues of a version, by function."""
        return {id.function: queue for id, queue in self._queues_of(project).items() if id.version == version}

    def _queues_of(self, project: str) -> Mapping[FunctionId, QueueT]:
        found = self._projects.get(project)
        return {} if found is None else found.queues

    # Routes

    def current(self, project: str) -> int | None:
        """The version that a path without a version leads to; None where no path leads to the project."""
        found = self._projects.get(project)
        return None if found is None else found.current

    def set_route(self, project: str, version: int) -> None:
        """Lead the project's paths to this version, all at once."""
        self._change(project, version, {})

    def set_weights(self, project: str, weights: Mapping[int, int]) -> None:
        """Let versions share the calls of the project by percent, until the next call or `set_route`; {} ends it.

        A function that only one of them has is routed as without weights.
        """
        self._change(project, self.current(project), weights)

    def drop_route(self, project: str) -> None:
        """Let no path lead to the project."""
        self._change(project, None, {})

    def _change(self, name: str, current: int | None, weights: Mapping[int, int]) -> None:
        project = self._project(name)
        project.current, project.weights = current, dict(weights)
        for id in project.queues:
            self._update(project, id)
        self._tidy(name, project)

    # Paths

    def _update(self, project: _Project[QueueT], id: FunctionId) -> None:
        """Update the two paths of a function version."""
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
