"""The mount table of the kernel."""

from pathlib import Path

import pytest

from dsfs.model.errors import MountpointError
from dsfs.storage.mounts import Mount, detach, life_of, mount_at, mount_of, mounts

TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:35 / /data\040sets rw,nosuid - fuse.dsfs dsfs rw,user_id=0
41 22 0:36 / /mnt rw shared:7 master:2 - nfs4 filer:/vol\134a rw
42 41 0:37 / /mnt rw - tmpfs tmpfs rw
"""


@pytest.fixture
def table(tmp_path: Path) -> list[Mount]:
    path = tmp_path / "mountinfo"
    path.write_bytes(TABLE)
    return mounts(path)


def test_table_is_read_with_its_escapes(table: list[Mount]) -> None:
    assert table[1] == Mount(Path("/data sets"), "fuse.dsfs", "dsfs", "0:35")
    assert table[2] == Mount(Path("/mnt"), "nfs4", "filer:/vol\\a", "0:36")


def test_path_lies_on_the_innermost_mount_and_there_on_the_topmost(table: list[Mount]) -> None:
    filesystems = [mount_of(Path(path), table) for path in ("/mnt/a/b", "/data sets", "/mntx", "/")]
    assert [mount and mount.filesystem for mount in filesystems] == ["tmpfs", "fuse.dsfs", "ext4", "ext4"]


def test_this_machine_has_a_root_that_is_alive() -> None:
    assert mount_at(Path("/")) is not None
    assert life_of(Path("/")) == "alive"


def test_what_is_not_mounted_cannot_be_detached(tmp_path: Path) -> None:
    assert mount_at(tmp_path) is None
    with pytest.raises(MountpointError, match="cannot be unmounted"):
        detach(tmp_path)
