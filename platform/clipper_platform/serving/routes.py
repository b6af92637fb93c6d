"""Where the paths that callers write lead to: lanes by `project/function` and `project/function@version`.

A platform has thousands of projects and changes one at a time, so that a change looks at what belongs to its project
and leaves everything else where it is. None of the methods awaits: callers see a project before a change or after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from clipper_platform.serving.split import Split
from clipper_platform.types import FunctionId

__all__ = ["Routes"]

LaneT = TypeVar("LaneT")


class _Project(Generic[LaneT]):
    """What is known of one project; `current`: the version that callers get who name none."""

    __slots__ = ("current", "lanes", "weights")

    def __init__(self) -> None:
        self.current: int | None = None
        self.lanes: dict[FunctionId, LaneT] = {}
        self.weights: dict[int, int] = {}  # version -> percent, while versions share its calls


class Routes(Generic[LaneT]):
    """The lanes, and which of them a path leads to. A project without a current version is not there for callers,
    whatever runs of it."""

    def __init__(self) -> None:
        self.lanes: dict[FunctionId, LaneT] = {}
        # The hot look-up: one object for good, changed in place, so that its readers may keep it.
        self.routed: dict[str, LaneT] = {}
        self.splits: dict[str, Split[LaneT]] = {}  # paths that several lanes share, which are not in `routed`
        self._projects: dict[str, _Project[LaneT]] = {}

    # Lanes

    def add(self, id: FunctionId, lane: LaneT) -> None:
        """From now on the lane is that of `id`, and callers get it where the route says so."""
        project = self._project(id.project)
        self.lanes[id] = project.lanes[id] = lane
        self._lead(project, id)

    def remove(self, id: FunctionId) -> None:
        """It is not there any more. Nothing happens where none is."""
        project = self._projects.get(id.project)
        if project is None or self.lanes.pop(id, None) is None:
            return
        del project.lanes[id]
        self._lead(project, id)
        self._tidy(id.project, project)

    def versions(self, project: str) -> set[int]:
        """Those that have lanes."""
        return {id.version for id in self._lanes_of(project)}

    def has(self, project: str, function: str) -> bool:
        """Whether any version of the function has a lane."""
        return any(id.function == function for id in self._lanes_of(project))

    def of(self, project: str, version: int) -> dict[str, LaneT]:
        """The lanes of a version, by function."""
        return {id.function: lane for id, lane in self._lanes_of(project).items() if id.version == version}

    def _lanes_of(self, project: str) -> Mapping[FunctionId, LaneT]:
        found = self._projects.get(project)
        return {} if found is None else found.lanes

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
        for id in project.lanes:
            self._lead(project, id)
        self._tidy(name, project)

    # Where paths lead

    def _lead(self, project: _Project[LaneT], id: FunctionId) -> None:
        """Have the two paths of a function version lead to where they should now."""
        pinned, path = str(id), id.path
        self.splits.pop(path, None)
        if project.current is None:
            self._put(pinned, None)
            self._put(path, None)
            return
        lanes = project.lanes
        self._put(pinned, lanes.get(id))
        lane = lanes.get(FunctionId(id.project, id.function, project.current))
        if lane is not None and project.weights:
            found = ((lanes.get(FunctionId(id.project, id.function, v)), share) for v, share in project.weights.items())
            shares = [(lane, share) for lane, share in found if lane is not None]
            if len(shares) > 1:
                self.splits[path] = Split(shares)
                lane = None
        self._put(path, lane)

    def _put(self, path: str, lane: LaneT | None) -> None:
        if lane is None:
            self.routed.pop(path, None)
        else:
            self.routed[path] = lane

    def _project(self, name: str) -> _Project[LaneT]:
        found = self._projects.get(name)
        if found is None:
            found = self._projects[name] = _Project()
        return found

    def _tidy(self, name: str, project: _Project[LaneT]) -> None:
        if project.current is None and not project.lanes:
            del self._projects[name]
