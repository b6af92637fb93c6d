"""Every Redis key that Clipper uses, built here and nowhere else.

With the prefix `clip:` (configurable, so that platforms can share a server):

| key | type | holds |
| --- | --- | --- |
| `clip:schema` | string | the version of this layout, a whole number |
| `clip:id` | string | the random id of this data, then the ids of the data that it was written back from |
| `clip:projects` | hash | project → its record |
| `clip:versions:{project}` | hash | number → the version's record, whose own number does not count |
| `clip:last-version` | hash | project → the number given out last; outlives the project |
| `clip:routes` | hash | project → the route's record |
| `clip:keys` | hash | key id → the key's record |
| `clip:secrets:{project}` | hash | name → value, in clear |
| `clip:policies` | hash | `project/function` → the policy's record |
| `clip:events:{project}` | stream | entry `SEQ-0`, field `event` → the event's record, whose own seq does not count |
| `clip:last-event` | hash | project → the seq given out last; outlives the project |
| `clip:revision` | string | how many changes there were; also the channel on which each one is published |
| `clip:changes` | sorted set | `project:NAME`, `keys`, `policies`, `applications` → revision of the last change |
| `clip:instances` | sorted set | platform instance → when its lease ends, in the server's milliseconds |
| `clip:applications` | hash | application → its record |
| `clip:app:{application}:states` | hash | context → revision, a space, JSON of the time and the state |
| `clip:app:{application}:state-seqs` | sorted set | context → seq of the last write |
| `clip:app:{application}:awaited` | stream | entry `SEQ-0`, fields `at`, `count`, `data` → awaited predictions |
| `clip:app:{application}:pairs` | stream | entry `SEQ-0`, fields `id` and `pair` → JSON of the time and the pair |
| `clip:app:{application}:joined` | sorted set | query id of a pair in the stream → seq |
| `clip:app:{application}:counts` | hash | name → a number |
| `clip:app:{application}:last` | hash | `pair`, `state`, `awaited` → the seq given out last |
| `clip:result:{project/function@N}:{digest}` | string | a cached result, in MessagePack; expires with its lifetime |

Records are JSON. A number that Redis allocates stands in the field or entry id, not in the JSON beside it. Only results
expire, and the server must not evict the rest (`maxmemory-policy noeviction` or `volatile-ttl`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from clipper_platform.errors import InvalidRequest

__all__ = [
    "APPLICATIONS_CHANGE",
    "DEFAULT_PREFIX",
    "KEYS_CHANGE",
    "POLICIES_CHANGE",
    "ApplicationKeys",
    "RedisKeys",
    "changed_project",
    "project_change",
]

DEFAULT_PREFIX = "clip:"

# Members of `clip:changes`.
KEYS_CHANGE = "keys"
POLICIES_CHANGE = "policies"
APPLICATIONS_CHANGE = "applications"
_PROJECT_CHANGE = "project:"


def project_change(project: str) -> str:
    return _PROJECT_CHANGE + project


def changed_project(member: str) -> str | None:
    """The reverse of `project_change`; None for a change of something else."""
    return member.removeprefix(_PROJECT_CHANGE) if member.startswith(_PROJECT_CHANGE) else None


@dataclass(frozen=True, slots=True)
class ApplicationKeys:
    """The keys of what one application learns. Names hold no `:`, so no two applications share a key."""

    states: str
    state_seqs: str
    awaited: str
    pairs: str
    joined: str
    counts: str
    last: str


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The keys under one prefix. Raises InvalidRequest for a prefix that redis-cli would not show as it is."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not self.prefix or len(self.prefix) > 128 or not self.prefix.isascii() or not self.prefix.isprintable():
            raise InvalidRequest(
                f"the Redis key prefix {self.prefix!r} is not allowed: use 1 to 128 printable ASCII characters"
            )
        if any(character in " *?[]\\" for character in self.prefix):  # the rest would make a pattern of a key
            raise InvalidRequest(
                f"the Redis key prefix {self.prefix!r} is not allowed: it holds a space or one of * ? [ ] \\"
            )

    @property
    def schema(self) -> str:
        return f"{self.prefix}schema"

    @property
    def id(self) -> str:
        return f"{self.prefix}id"

    @property
    def projects(self) -> str:
        return f"{self.prefix}projects"

    def versions(self, project: str) -> str:
        return f"{self.prefix}versions:{project}"

    @property
    def last_version(self) -> str:
        return f"{self.prefix}last-version"

    @property
    def routes(self) -> str:
        return f"{self.prefix}routes"

    @property
    def api_keys(self) -> str:
        return f"{self.prefix}keys"

    def secrets(self, project: str) -> str:
        return f"{self.prefix}secrets:{project}"

    @property
    def policies(self) -> str:
        return f"{self.prefix}policies"

    def policy_field(self, project: str, function: str) -> str:
        """The field of one policy. Names hold no `/`, so no two functions share a field."""
        return f"{project}/{function}"

    @property
    def applications(self) -> str:
        return f"{self.prefix}applications"

    def application(self, name: str) -> ApplicationKeys:
        return ApplicationKeys(
            *(f"{self.prefix}app:{name}:{field.name.replace('_', '-')}" for field in fields(ApplicationKeys))
        )

    def events(self, project: str) -> str:
        return f"{self.prefix}events:{project}"

    @property
    def last_event(self) -> str:
        return f"{self.prefix}last-event"

    @property
    def revision(self) -> str:
        return f"{self.prefix}revision"

    @property
    def changes(self) -> str:
        return f"{self.prefix}changes"

    @property
    def instances(self) -> str:
        return f"{self.prefix}instances"

    def result(self, owner: str, digest: bytes) -> str:
        """A cached result of the version `owner`."""
        return f"{self.prefix}result:{owner}:{digest.hex()}"

    def results_of(self, owner: str) -> str:
        """A pattern for all results of a version. Names hold none of the pattern's special characters."""
        return f"{self.prefix}result:{owner}:*"
