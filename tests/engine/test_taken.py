"""What files and directories take, added up."""

import os
from pathlib import Path

from dsfs.model.retention import NOTHING, Amount
from dsfs.storage.account import count
from dsfs.storage.taken import room_below, room_now, room_of


def test_snapshots_and_second_names_take_nothing_and_what_a_client_keeps_does(tmp_path: Path) -> None:
    """.snapshot is in every directory of some file servers, over NFSv3."""
    folder = tmp_path / "generation"
    for name in ("catalog.mdb", ".snapshot/hourly/catalog.mdb", "deep/.nfs0001", "deep/.snapshot/file"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(8192))
    os.link(folder / "catalog.mdb", folder / "catalog.mdb.new")
    (folder / "deep" / "loop").symlink_to(folder)
    taken = [folder / name for name in ("", "catalog.mdb", "deep", "deep/.nfs0001", "deep/loop")]
    expected = sum((room_of(os.lstat(path)) for path in taken), NOTHING)
    assert room_below(folder) == count(folder) == expected
    assert count(folder, most=4) is None
    assert room_below(folder / "catalog.mdb") == room_now(folder / "catalog.mdb")
    assert room_below(tmp_path / "none") == Amount()
