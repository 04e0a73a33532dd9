"""What the policy is compared with: LRU of segments, and Belady's optimum, which knows the future."""

from collections import OrderedDict
from heapq import heappop, heappush

from bench.simulate.traces import Trace


def lru(trace: Trace, capacity: int) -> bytearray:
    """For each read whether it is a hit, where a miss takes the place of what was used longest ago."""
    hits = bytearray(len(trace.reads))
    resident: OrderedDict[tuple[int, int], None] = OrderedDict()
    for place, read in enumerate(trace.reads):
        key = read.version, read.segment
        if key in resident:
            hits[place] = 1
            resident.move_to_end(key)
            continue
        if len(resident) >= capacity:
            resident.popitem(last=False)
        resident[key] = None
    return hits


def belady(trace: Trace, capacity: int) -> bytearray:
    """Where what is wanted last leaves, or does not enter: no policy has more hits."""
    hits = bytearray(len(trace.reads))
    following = _following(trace)
    wanted: dict[tuple[int, int], int] = {}  # resident -> its next read
    by_wanted: list[tuple[int, tuple[int, int]]] = []  # heap, what is wanted last first; old entries stay in it
    for place, read in enumerate(trace.reads):
        key = read.version, read.segment
        hits[place] = key in wanted
        wanted[key] = following[place]
        heappush(by_wanted, (-following[place], key))
        while len(wanted) > capacity:
            negative, last = heappop(by_wanted)
            if wanted.get(last) == -negative:
                del wanted[last]
    return hits


def _following(trace: Trace) -> list[int]:
    """For each read the place of the next one of the same segment."""
    never = len(trace.reads)
    following = [never] * never
    seen: dict[tuple[int, int], int] = {}
    for place in range(never - 1, -1, -1):
        read = trace.reads[place]
        following[place] = seen.get((read.version, read.segment), never)
        seen[read.version, read.segment] = place
    return following
