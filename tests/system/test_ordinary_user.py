"""A daemon that is not root's: fusermount3 mounts for it, settings of the kernel stay, and all else is the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.faultproxy import FaultProxy
from tests.rig.reading import SourceVersion
from tests.rig.s3server import S3Server

ROOT = Path(__file__).parents[2]
# In a mount namespace of its own, which ends with its last process: a /dev/fuse that is open to all, as everywhere but
# in some containers, and a fuse.conf that says nothing.  The user may read what it likes, since Python may lie in the
# home of root; fusermount3 knows nothing of that.
AS_NOBODY = """
set -e
mount -t tmpfs -o mode=0755 dsfs-test /mnt
if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    mknod -m 0666 /mnt/fuse c 10 229
    mount --bind /mnt/fuse /dev/fuse
fi
touch /mnt/fuse.conf
mount --bind /mnt/fuse.conf /etc/fuse.conf
install -d -o nobody -g nogroup /mnt/node
exec setpriv --reuid nobody --regid nogroup --clear-groups \\
    --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"
"""


@pytest.mark.needs("fusermount3", "setpriv", "unshare")
def test_ordinary_user_mounts_reads_drops_and_unmounts(
    s3: S3Server, proxy: FaultProxy, version: SourceVersion
) -> None:
    work = [sys.executable, "-m", "tests.system.ordinary_user", proxy.endpoint_url, str(version.source), version.name]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh", *work],
        env={**os.environ, **s3.env()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert done.returncode == 0, done.stderr
