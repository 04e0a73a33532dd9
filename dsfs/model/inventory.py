"""What is cached, as the policy looks at it: put together from what lies in the backing directory, what nodes tell of
versions in use, last uses, and pins.

All times are by the file server's clock.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from dsfs.model.allotment import RetentionOf
from dsfs.model.lastuse import LastUse
from dsfs.model.nodes import Uses, VersionKey
from dsfs.model.pin import Pins
from dsfs.model.retention import Amount, CachedVersion
from dsfs.model.reuse import is_reused


@dataclass(frozen=True, slots=True)
class CachedGeneration:
    """One generation of a version in the backing directory.

    `size_bytes`, `held`, `is_current`: see CachedVersion.  `made_ns`: when the newest of its objects was made, or when
    it was placed where that is not known; `placed_ns`: when its catalog was put there.
    """

    key: VersionKey
    size_bytes: int
    held: Amount
    is_current: bool
    made_ns: int
    placed_ns: int

    @property
    def version(self) -> tuple[str, str]:
        return self.key[:2]


def cached_versions(
    generations: Collection[CachedGeneration],
    uses: Uses,
    last_uses: Iterable[LastUse],
    pins: Pins,
    retention_of: RetentionOf,
    now_ns: int,
    *,
    reused: Collection[VersionKey] = (),
) -> list[CachedVersion]:
    """Every generation as the policy looks at it.  `reused`: those whose bytes were read again when it looked last.

    What is known of a version as such, its last use and its pins, concerns its current generation.  An older one stays
    as long as a node tells that it is in use there: a node that has not seen the refresh goes on with it.
    """
    newer = _newer(generations)
    used = {(use.dataset, use.version): use for use in last_uses}
    found = []
    for generation in generations:
        told = uses.versions.get(generation.key, {})
        last_use = used.get(generation.version) if generation.is_current else None
        used_ns = max(generation.placed_ns, last_use.used_ns if last_use else 0)
        version = CachedVersion(
            generation.key,
            generation.size_bytes,
            generation.held,
            used_ns=max(used_ns, now_ns) if told else used_ns,
            users={node: use.since_ns for node, use in told.items() if use.is_held},
            uses=last_use.uses if last_use else 0.0,
            is_reused=any(use.is_warmed for use in told.values())
            or is_reused(
                generation.size_bytes,
                sum(use.read_bytes for use in told.values()),
                sum(use.again for use in told.values()),
            ),
            newer=newer[generation.version],
            is_current=generation.is_current,
            pinned_until_ns=pins.until_ns(*generation.version) if generation.is_current else 0,
        )
        if version.key in reused and version.idle_s(now_ns) <= retention_of(version.dataset).lately_s:
            version = replace(version, is_reused=True)
        found.append(version)
    return found


def _precedence(generation: CachedGeneration) -> tuple[bool, int]:
    return generation.is_current, generation.made_ns


def _newer(generations: Iterable[CachedGeneration]) -> dict[tuple[str, str], int]:
    """How many versions of its dataset are newer than each: made later; of those made at once, with a later name."""
    made: dict[str, dict[str, int]] = {}
    for generation in sorted(generations, key=_precedence):  # what is current counts, and comes last
        dataset, version = generation.version
        made.setdefault(dataset, {})[version] = generation.made_ns
    return {
        (dataset, version): place
        for dataset, of_dataset in made.items()
        for place, version in enumerate(sorted(of_dataset, key=lambda name: (of_dataset[name], name), reverse=True))
    }
