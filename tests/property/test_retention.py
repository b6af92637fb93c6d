"""What is kept and what is removed, for any history of versions and environments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.core.retention import EnvironmentFacts, VersionFacts, expired_versions, unused_environments

VERSIONS = st.lists(
    st.builds(VersionFacts, number=st.integers(1, 60), failed=st.booleans(), needed=st.booleans()),
    unique_by=lambda version: version.number,
)
ENVIRONMENTS = st.lists(
    st.builds(
        EnvironmentFacts,
        id=st.integers(0, 30).map(str),
        bytes=st.integers(0, 100),
        last_used_at=st.integers(0, 1000).map(float),
        complete=st.booleans(),
    ),
    unique_by=lambda environment: environment.id,
)


@given(VERSIONS, st.integers(1, 25))
def test_the_newest_versions_and_the_needed_ones_stay(versions: list[VersionFacts], keep: int) -> None:
    expired = expired_versions(versions, keep)
    assert expired == sorted(set(expired))
    for failed in (False, True):
        alike = sorted((v for v in versions if v.failed == failed), key=lambda version: version.number)
        newest = {version.number for version in alike[-keep:]}
        for version in alike:
            assert (version.number in expired) == (version.number not in newest and not version.needed)


@given(VERSIONS, st.integers(1, 25))
def test_what_is_kept_is_kept_again(versions: list[VersionFacts], keep: int) -> None:
    expired = expired_versions(versions, keep)
    assert expired_versions([v for v in versions if v.number not in expired], keep) == []


def test_twenty_failed_deploys_take_no_version_away_to_which_a_rollback_can_return() -> None:
    good = [VersionFacts(number=number) for number in range(1, 4)]
    failed = [VersionFacts(number=number, failed=True) for number in range(4, 30)]
    assert expired_versions([*good, *failed], 20) == [4, 5, 6, 7, 8, 9]


@given(ENVIRONMENTS, st.sets(st.integers(0, 30).map(str)), st.integers(0, 500), st.integers(0, 1000))
def test_wanted_environments_stay_and_the_others_go_by_age_and_size(
    environments: list[EnvironmentFacts], wanted: set[str], grace_s: int, max_bytes: int
) -> None:
    unused = unused_environments(environments, wanted=wanted, now=1000.0, grace_s=grace_s, max_bytes=max_bytes)
    ids = {environment.id for environment in unused}
    assert not ids & wanted
    kept = [environment for environment in environments if environment.id not in ids]
    for environment in kept:
        if environment.id not in wanted:
            assert environment.complete
            assert environment.last_used_at + grace_s > 1000.0
    left = sum(environment.bytes for environment in kept)
    assert left <= max_bytes or all(environment.id in wanted for environment in kept)
    # Nothing goes too early: what is younger than its grace goes only if its bytes had to.
    early = [e for e in unused if e.complete and e.last_used_at + grace_s > 1000.0]
    if early:
        assert left + early[-1].bytes > max_bytes
        assert all(e.last_used_at >= early[-1].last_used_at for e in kept if e.id not in wanted)


def test_without_a_grace_everything_that_is_not_wanted_goes() -> None:
    environments = [EnvironmentFacts(id=id, bytes=1, last_used_at=1000.0) for id in "abc"]
    unused = unused_environments(environments, wanted={"b"}, now=1000.0, grace_s=0.0, max_bytes=100)
    assert {environment.id for environment in unused} == {"a", "c"}
