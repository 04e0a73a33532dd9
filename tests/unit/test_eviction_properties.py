"""What holds of the policy whatever is in the cache: worlds made by Hypothesis, shrunk to the smallest that fails."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dsfs.model.allotment import allotments
from dsfs.model.eviction import Rule, Verdict, judge
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import NOTHING, Amount, CachedSegment, CachedVersion, Capacity, Retention
from tests.rig.cached import DAY_S, FOR_EVER_NS, NOW_NS, ago

IDLE_S = (0.0, 300.0, 900.0, 3600.0, DAY_S, 2 * DAY_S, 6 * DAY_S, 8 * DAY_S, 30 * DAY_S)
OF_USE = {Rule.MAX_SHARE, Rule.FAIR_SHARE}


@dataclass(frozen=True)
class World:
    """What may be judged.  `segments`: of each version; one that is shared is listed with each."""

    versions: tuple[CachedVersion, ...]
    segments: dict[VersionKey, tuple[CachedSegment, ...]]
    room: Capacity
    retentions: dict[str, Retention]
    need: Amount

    def judge(self) -> list[Verdict]:
        of, retention_of = self.segments.__getitem__, self.retentions.__getitem__
        return list(judge(self.versions, of, self.room, retention_of, self.allotted(), NOW_NS, need=self.need))

    def allotted(self) -> dict[VersionKey, int]:
        return allotments(self.versions, self.room, self.retentions.__getitem__, NOW_NS)

    def all_segments(self) -> dict[str, CachedSegment]:
        return {segment.identity: segment for found in self.segments.values() for segment in found}


@st.composite
def worlds(draw: st.DrawFn, *, is_shared: bool = True) -> World:
    keys = draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(("v1", "v2", "v3")), st.just("g")), unique=True)
    )
    found: dict[VersionKey, list[CachedSegment]] = {key: [] for key in keys}
    used = NOTHING
    for place in range(draw(st.integers(0, 12)) if keys else 0):
        owners = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2 if is_shared else 1, unique=True))
        segment = CachedSegment(
            f"s{place}",
            draw(st.integers(1, 20)),
            draw(st.integers(1, 2)),
            ago(draw(st.sampled_from(IDLE_S))),
            is_open=draw(st.booleans()) if draw(st.booleans()) else False,
        )
        used += Amount(segment.size_bytes, segment.inodes)
        for owner in owners:
            found[owner].append(segment._replace(others=tuple(other for other in owners if other != owner)))
    versions = []
    for key in keys:
        held = Amount(sum(s.size_bytes for s in found[key]), sum(s.inodes for s in found[key]))
        idle_s = draw(st.sampled_from(IDLE_S))
        versions.append(
            CachedVersion(
                key,
                held.size_bytes + draw(st.integers(0, 50)),
                held,
                ago(idle_s),
                {node: ago(idle_s) for node in draw(st.lists(st.sampled_from(("n1", "n2")), max_size=1))},
                draw(st.sampled_from((1.0, 1.5, 4.0))),
                is_reused=draw(st.booleans()),
                newer=draw(st.integers(0, 2)),
                is_current=draw(st.integers(0, 4)) > 0,
                pinned_until_ns=draw(st.sampled_from((0, 0, 0, NOW_NS, FOR_EVER_NS))),
            )
        )
    limit = draw(st.integers(1, 150))
    high = draw(st.integers(1, limit))
    leaving = Amount(draw(st.integers(0, 10)), draw(st.integers(0, 10)))
    room = Capacity(
        limit,
        high,
        draw(st.integers(0, high - 1)),
        used + leaving,
        leaving,
        free=Amount(draw(st.integers(0, 100)), draw(st.integers(0, 100))),
        floor=Amount(draw(st.integers(0, 50)), draw(st.integers(0, 50))),
    )
    retentions = {
        dataset: Retention(7 * DAY_S, draw(st.integers(0, 2)), draw(st.integers(0, limit) | st.just(limit)))
        for dataset in "ab"
    }
    need = Amount(draw(st.integers(0, 60)), draw(st.integers(0, 10)))
    return World(tuple(versions), {key: tuple(of) for key, of in found.items()}, room, retentions, need)


def identities(verdicts: Iterable[Verdict]) -> list[str]:
    return [identity for verdict in verdicts for identity in verdict.segments]


@given(worlds())
def test_nothing_that_is_pinned_or_open_leaves_and_nothing_leaves_twice(world: World) -> None:
    gone = identities(world.judge())
    assert len(gone) == len(set(gone))
    kept = {s.identity for v in world.versions if v.is_pinned(NOW_NS) for s in world.segments[v.key]}
    kept |= {s.identity for s in world.all_segments().values() if s.is_open}
    assert kept.isdisjoint(gone)


@given(worlds())
def test_what_is_in_use_leaves_only_as_far_as_it_holds_more_than_its_share(world: World) -> None:
    allotted = world.allotted()
    verdicts = world.judge()
    gone = set(identities(verdicts))
    for version in world.versions:
        if version.is_active(NOW_NS):
            assert {v.rule for v in verdicts if v.key == version.key and v.segments} <= OF_USE
            lost = [s.size_bytes for s in world.segments[version.key] if s.identity in gone]
            most = max(0, version.held.size_bytes - allotted[version.key])
            assert not lost or sum(lost) - max(lost) < most


@given(worlds())
def test_what_leaves_makes_up_for_what_is_needed_or_is_all_that_can(world: World) -> None:
    """So also: after it ran no more is used than the limit, unless what is left is pinned, open, or a share of it."""
    gone = set(identities(world.judge()))
    everything = world.all_segments()
    freed = Amount(sum(everything[i].size_bytes for i in gone), sum(everything[i].inodes for i in gone))
    room = world.room
    free = room.free + room.leaving + freed - world.need
    left = room.used - room.leaving - freed
    if left.size_bytes + world.need.size_bytes <= room.high_bytes and free.covers(room.floor):
        return
    allotted = world.allotted()
    stays = {v.key for v in world.versions if v.is_pinned(NOW_NS) or v.is_active(NOW_NS)}
    for version in world.versions:
        left_of_it = [s for s in world.segments[version.key] if s.identity not in gone]
        movable = [s for s in left_of_it if not s.is_open and stays.isdisjoint((version.key, *s.others))]
        assert not movable, version.key
        if version.is_active(NOW_NS) and not version.is_pinned(NOW_NS):
            own = [s for s in left_of_it if not s.is_open and stays.isdisjoint(s.others)]
            lost = version.held.size_bytes - sum(s.size_bytes for s in left_of_it)
            assert not own or version.held.size_bytes - lost <= allotted[version.key]


@given(worlds())
def test_no_dataset_holds_more_than_its_share_unless_that_cannot_leave(world: World) -> None:
    gone = set(identities(world.judge()))
    for dataset, retention in world.retentions.items():
        own = [v for v in world.versions if v.dataset == dataset]
        left = [s for v in own for s in world.segments[v.key] if s.identity not in gone]
        if sum(s.size_bytes for s in left) > retention.most_bytes:
            idle = {v.key for v in own if not v.is_pinned(NOW_NS) and not v.is_active(NOW_NS)}
            for version in idle:
                rest = [s for s in world.segments[version] if s.identity not in gone]
                assert all(s.is_open or s.others for s in rest)


@given(worlds(), st.integers(0, 2**32))
def test_order_does_not_depend_on_the_order_of_what_is_asked(world: World, seed: int) -> None:
    chance = Random(seed)
    versions = list(world.versions)
    chance.shuffle(versions)
    segments = {key: tuple(chance.sample(found, len(found))) for key, found in world.segments.items()}
    other = replace(world, versions=tuple(versions), segments=segments).judge()
    assert [set(v.segments) for v in other] == [set(v.segments) for v in world.judge()]
    assert [replace(v, segments=()) for v in other] == [replace(v, segments=()) for v in world.judge()]


@given(worlds(is_shared=False), st.data())
@settings(max_examples=300)
def test_version_that_is_older_never_keeps_more(world: World, data: st.DataObject) -> None:
    idle = [v for v in world.versions if not v.users]
    if not idle:
        return
    version = data.draw(st.sampled_from(idle))
    older = replace(version, used_ns=version.used_ns - data.draw(st.sampled_from((1, 10**12, 10**15))))
    versions = tuple(older if v is version else v for v in world.versions)

    def lost(judged: World) -> int:
        return sum(v.amount.size_bytes for v in judged.judge() if v.key == version.key and v.segments)

    assert lost(replace(world, versions=versions)) >= lost(world)


@given(worlds())
def test_what_leaves_comes_first_and_then_every_version_that_stays_with_what_is_left_of_it(world: World) -> None:
    verdicts = world.judge()
    gone = set(identities(verdicts))
    leaves = [bool(v.segments) for v in verdicts]
    assert leaves == sorted(leaves, reverse=True)
    rest = {key: sum(s.size_bytes for s in found if s.identity not in gone) for key, found in world.segments.items()}
    stays = {v.key: v.amount.size_bytes for v in verdicts if not v.segments}
    assert stays == {key: size_bytes for key, size_bytes in rest.items() if size_bytes}
