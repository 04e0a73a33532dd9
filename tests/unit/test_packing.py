"""Packs are cut by content."""

import random
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.blocks import pages
from dsfs.model.packing import PACK_MAX, PACK_MIN, SMALL_MAX, PackCutter

MIB = 1024 * 1024


def fingerprint(number):
    return blake2b(str(number).encode(), digest_size=20).digest()


def packed(members):
    """The members (fingerprint, size) as tuples of packs."""
    cutter = PackCutter()
    packs: list[list[tuple[bytes, int]]] = []
    for member in members:
        if cutter.begins_pack(*member):
            packs.append([])
        packs[-1].append(member)
    return [tuple(pack) for pack in packs]


def size_of(pack):
    return sum(pages(size) for _, size in pack)


sizes = st.one_of(st.integers(1, SMALL_MAX), st.just(SMALL_MAX), st.integers(MIB, SMALL_MAX))
member_lists = st.builds(
    lambda seed, drawn: [(fingerprint((seed, n)), size) for n, size in enumerate(drawn * 4)],
    st.integers(),
    st.lists(sizes, max_size=60),
)


@given(member_lists)
def test_every_member_is_in_one_pack_in_order(members):
    assert [member for pack in packed(members) for member in pack] == members


@given(member_lists)
def test_packs_keep_to_their_limits(members):
    packs = packed(members)
    assert all(size_of(pack) <= PACK_MAX for pack in packs)
    assert all(size_of(pack) >= PACK_MIN for pack in packs[:-1])


def lake(seed, count):
    draw = random.Random(seed)
    top = draw.choice([20_000, 200_000, 2 * MIB])
    return [(fingerprint((seed, n)), draw.randint(1, top)) for n in range(count)]


def test_packs_have_about_32_mib():
    for top in (300_000, SMALL_MAX):
        draw = random.Random(top)
        members = [(fingerprint(n), draw.randint(1, top)) for n in range(20_000_000_000 // top)]
        packs = packed(members)
        assert 28 * MIB < sum(map(size_of, packs)) / len(packs) < 36 * MIB


def test_one_file_more_less_or_other_changes_a_pack_or_two():
    changes = []
    for seed in range(120):
        members = lake(seed, 1500)
        draw = random.Random(seed)
        place = draw.randrange(len(members))
        new = (fingerprint((seed, "new")), draw.randint(1, MIB))
        edited = members[:place] + [[new], [], [new]][seed % 3] + members[place + seed % 2 + seed // 2 % 2 :]
        changes.append(len(set(packed(edited)) - set(packed(members))))
    assert sum(changes) / len(changes) < 2
    assert max(changes) <= 6


def test_appended_files_leave_all_packs_but_the_last():
    members = lake(1, 3000)
    before, after = packed(members[:2000]), packed(members)
    assert after[: len(before) - 1] == before[:-1]
