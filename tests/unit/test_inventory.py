"""What the policy looks at: put together from generations, what nodes tell, last uses and pins."""

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.inventory import CachedGeneration, cached_versions
from dsfs.model.lastuse import LastUse
from dsfs.model.nodes import Uses, VersionKey
from dsfs.model.pin import NO_END_NS, Pin, PinFile, Pins
from dsfs.model.retention import ACTIVE_S, Amount, CachedVersion
from dsfs.model.usage import UsedVersion
from dsfs.model.versionname import name_of
from tests.rig.cached import DAY_S, HOUR_S, NOW_NS, WEEK, ago

NOBODY = Uses({}, {}, frozenset(), frozenset())
MIB = 1 << 20


def generation(
    version: str, made_s: float = DAY_S, *, name: str = "g", is_current: bool = True, dataset: str = "photos"
) -> CachedGeneration:
    """Of 10 MiB, 4 of them there; its objects were made so long ago."""
    return CachedGeneration((dataset, version, name), 10 * MIB, Amount(4 * MIB, 8), is_current, ago(made_s), ago(DAY_S))


def told(
    key: VersionKey, *, files: int = 0, is_warmed: bool = False, read_bytes: int = 0, again: int = 0
) -> UsedVersion:
    return UsedVersion(*key, files, is_warmed, ago(HOUR_S), 0.0, read_bytes, again)


def told_by(**nodes: UsedVersion) -> Uses:
    """Each node tells of the same version."""
    (key,) = {told.key for told in nodes.values()}
    return replace(NOBODY, versions={key: nodes})


def pinned(version: str, until_ns: int) -> Pins:
    name = name_of("photos", version)
    return Pins({name: (PinFile(f"{name},0.json", name, Pin("photos", version, 1, until_ns, "", "", "")),)})


def seen(
    *generations: CachedGeneration,
    uses: Uses = NOBODY,
    last_uses: tuple[LastUse, ...] = (),
    pins: Pins | None = None,
    reused: tuple[VersionKey, ...] = (),
) -> list[CachedVersion]:
    retention_of = lambda dataset: WEEK  # noqa: E731
    return cached_versions(generations, uses, last_uses, pins or Pins({}), retention_of, NOW_NS, reused=reused)


def test_version_that_nobody_uses_was_used_when_it_was_told_last_or_came() -> None:
    v1 = generation("v1")
    (version,) = seen(v1)
    assert version == CachedVersion(v1.key, 10 * MIB, Amount(4 * MIB, 8), ago(DAY_S), {}, 0.0, False, 0, True)
    (version,) = seen(v1, last_uses=(LastUse("photos", "v1", ago(HOUR_S), 2.5), LastUse("photos", "v2", ago(1), 9.0)))
    assert (version.used_ns, version.uses, version.is_active(NOW_NS)) == (ago(HOUR_S), 2.5, False)
    (version,) = seen(v1, last_uses=(LastUse("photos", "v1", ago(2 * DAY_S), 1.0),))
    assert version.used_ns == ago(DAY_S)


def test_users_are_those_who_have_it_open_or_warm_it_and_who_had_it_open_makes_it_active() -> None:
    v1 = generation("v1")
    key = v1.key
    (version,) = seen(v1, uses=told_by(a=told(key, files=2), b=told(key, is_warmed=True), c=told(key)))
    assert version.users == {"a": ago(HOUR_S), "b": ago(HOUR_S)}
    (version,) = seen(v1, uses=told_by(c=told(key)))
    assert (version.users, version.is_active(NOW_NS)) == ({}, True)


def test_bytes_are_counted_on_all_nodes_together() -> None:
    v1 = generation("v1")
    key = v1.key

    def is_reused(*nodes: UsedVersion) -> bool:
        (version,) = seen(v1, uses=told_by(**{f"n{place}": node for place, node in enumerate(nodes)}))
        return version.is_reused

    assert not is_reused(told(key, read_bytes=10 * MIB))
    assert is_reused(told(key, read_bytes=6 * MIB), told(key, read_bytes=6 * MIB))
    assert not is_reused(told(key, again=4), told(key, again=3))
    assert is_reused(told(key, again=4), told(key, again=4))
    assert is_reused(told(key, is_warmed=True))


def test_what_was_reused_stays_so_until_it_was_idle_for_long() -> None:
    v1 = generation("v1")
    for idle_s, is_reused in ((ACTIVE_S, True), (WEEK.lately_s, True), (WEEK.lately_s + 1, False)):
        placed_ns = ago(idle_s)
        (version,) = seen(replace(v1, placed_ns=placed_ns), reused=(v1.key,))
        assert version.is_reused is is_reused


def test_older_generation_stays_for_those_only_who_use_it_there() -> None:
    old, new = generation("v1", name="g1", is_current=False), generation("v1", name="g2")
    last_uses = (LastUse("photos", "v1", ago(1), 3.0),)
    first, second = seen(old, new, last_uses=last_uses, pins=pinned("v1", 0))
    assert (first.used_ns, first.uses, first.pinned_until_ns) == (ago(DAY_S), 0.0, 0)
    assert (second.used_ns, second.uses, second.pinned_until_ns) == (ago(1), 3.0, NO_END_NS)
    first, second = seen(old, new, uses=told_by(a=told(old.key)))
    assert (first.is_active(NOW_NS), second.is_active(NOW_NS)) == (True, False)


def test_pin_has_its_time_and_what_cannot_be_understood_has_none() -> None:
    v1 = generation("v1")
    (version,) = seen(v1, pins=pinned("v1", NOW_NS + 5))
    assert version.pinned_until_ns == NOW_NS + 5
    (version,) = seen(v1, pins=pinned("v2", 0))
    assert not version.is_pinned(NOW_NS)
    name = name_of("photos", "v1")
    (version,) = seen(v1, pins=Pins({name: (PinFile(f"{name},1.json", name, None, "torn"),)}))
    assert version.is_pinned(2**62)


def test_newest_is_what_was_made_last_whatever_it_is_called() -> None:
    found = seen(
        generation("v9", 3 * DAY_S),
        generation("v10", 2 * DAY_S),
        generation("v10", 5 * DAY_S, name="old", is_current=False),
        generation("same-a", HOUR_S),
        generation("same-b", HOUR_S),
        generation("v1", 9 * DAY_S, dataset="speech"),
    )
    assert [(version.key[1:], version.newer) for version in found] == [
        (("v9", "g"), 3), (("v10", "g"), 2), (("v10", "old"), 2), (("same-a", "g"), 1), (("same-b", "g"), 0),
        (("v1", "g"), 0),
    ]  # fmt: skip


# ---------------------------------------------------------------- whatever there is

AGES_S = st.sampled_from((0.0, 300.0, 900.0, HOUR_S, DAY_S, 8 * DAY_S))
KEYS = st.tuples(st.sampled_from(("a", "b")), st.sampled_from(("v1", "v2", "v3")), st.sampled_from(("g1", "g2")))
GENERATIONS = st.lists(
    st.builds(
        CachedGeneration,
        KEYS,
        st.integers(0, 100),
        st.builds(Amount, st.integers(0, 100), st.integers(0, 9)),
        st.booleans(),
        AGES_S.map(ago),
        AGES_S.map(ago),
    ),
    unique_by=lambda each: each.key,
)
TOLD = st.builds(
    lambda key, files, is_warmed, read_bytes, again: told(
        key, files=files, is_warmed=is_warmed, read_bytes=read_bytes, again=again
    ),
    KEYS,
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 200),
    st.integers(0, 64),
)
LAST_USES = st.lists(
    st.builds(LastUse, st.sampled_from(("a", "b")), st.sampled_from(("v1", "v2", "v4")), AGES_S.map(ago), st.just(2.0)),
    unique_by=lambda use: (use.dataset, use.version),
)


def uses_of(nodes: dict[str, list[UsedVersion]]) -> Uses:
    versions: dict[VersionKey, dict[str, UsedVersion]] = {}
    for node, all_told in nodes.items():
        for each in all_told:
            versions.setdefault(each.key, {})[node] = each
    return replace(NOBODY, versions=versions)


NODES = st.dictionaries(st.sampled_from(("n1", "n2", "n3")), st.lists(TOLD, max_size=4))


@given(GENERATIONS, NODES, LAST_USES, st.integers(0, 2**32))
def test_every_generation_is_seen_once_and_in_whatever_order(
    generations: list[CachedGeneration], nodes: dict[str, list[UsedVersion]], last_uses: list[LastUse], seed: int
) -> None:
    found = seen(*generations, uses=uses_of(nodes), last_uses=tuple(last_uses))
    assert [version.key for version in found] == [generation.key for generation in generations]
    for dataset in ("a", "b"):
        newer = {version.key[1]: version.newer for version in found if version.dataset == dataset}
        assert sorted(newer.values()) == list(range(len(newer)))
    shuffled = Random(seed).sample(generations, len(generations))
    again = seen(*shuffled, uses=uses_of(nodes), last_uses=tuple(reversed(last_uses)))
    if all(count == 1 for count in Counter(g.version for g in generations if g.is_current).values()):
        assert sorted(again, key=lambda version: version.key) == sorted(found, key=lambda version: version.key)


@given(GENERATIONS, NODES, LAST_USES, TOLD)
def test_what_one_node_more_tells_never_makes_a_version_less_used(
    generations: list[CachedGeneration],
    nodes: dict[str, list[UsedVersion]],
    last_uses: list[LastUse],
    more: UsedVersion,
) -> None:
    before = seen(*generations, uses=uses_of(nodes), last_uses=tuple(last_uses))
    after = seen(*generations, uses=uses_of(nodes | {"new": [more]}), last_uses=tuple(last_uses))
    for one, other in zip(before, after, strict=True):
        assert other.used_ns >= one.used_ns
        assert other.is_reused >= one.is_reused
        assert other.users.items() >= one.users.items()
        if one.key == more.key:
            assert other.is_active(NOW_NS)
        else:
            assert other == one
