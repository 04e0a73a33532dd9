"""How much of a version is resident, from what a node knows and what was found of all."""

import pytest

from dsfs.model.standing import HeldVersion, Resident, Standing, content_of, resident_bytes, standing_in

TOTAL = 1000_000
TAKEN = 1_040_000  # what all of it takes: padded, with checksums


def held(taken_bytes: int) -> HeldVersion:
    return HeldVersion("speech", "v1", "01", taken_bytes, TAKEN)


def known(part: float) -> Resident:
    return Resident(round(TOTAL * part), round(TAKEN * 0.99 * part))


@pytest.mark.parametrize(
    ("knows", "found", "is_filled_since", "expected"),
    [
        (1.0, TAKEN, False, TOTAL),  # both agree: what is known is exact
        (0.0, None, False, 0),
        (0.0, TAKEN, False, TOTAL),  # others have filled it
        (1.0, None, False, 0),  # it was evicted by another node
        (0.25, TAKEN // 2, False, TOTAL // 2),
        (0.25, TAKEN // 2, True, TOTAL // 2),
        (0.75, TAKEN // 2, True, 750_000),  # more than was found then
        (0.75, None, True, 750_000),
        (0.0, 2 * TAKEN, False, TOTAL),
    ],
)
def test_resident_bytes(knows: float, found: int | None, is_filled_since: bool, expected: int) -> None:
    version = held(found) if found is not None else None
    assert resident_bytes(known(knows), version, TOTAL, is_filled_since=is_filled_since) == expected


def test_standing_survives_its_file() -> None:
    standing = Standing(1, "01", "gpu1", 5, 9, "trouble", True, (held(5), held(7)))
    assert standing_in(content_of(standing)) == standing
    with pytest.raises(ValueError, match="no JSON object"):
        standing_in(b"[]")
