"""What is counted of reads and of the origins, failures among them."""

import errno
import tomllib
from contextlib import closing
from pathlib import Path
from typing import cast

import pyfuse3
import pytest

from dsfs.cache.datasets import Datasets
from dsfs.config.document import from_document
from dsfs.metrics import Metrics
from dsfs.model.errors import AccessDeniedError
from dsfs.mount.inodes import ROOT
from dsfs.mount.operations import Operations
from dsfs.storage.origin import Origin
from tests.engine.engine import DATASET, MIB, PREFIX, Settings, running
from tests.engine.fake_origin import FakeOrigin

TWO_REGIONS = """
mountpoint = "/mnt/data"
state_dir = "/var/lib/dsfs"
[origin]
url = "s3://bucket"
[backing]
path = "/backing"
limit = "1GiB"
[[dataset]]
name = "one"
url = "s3://bucket/one"
region = "eu-central-1"
[[dataset]]
name = "two"
url = "s3://bucket/two"
region = "eu-west-1"
"""


@pytest.mark.expects_log("EACCES|cannot be listed|fetch failed")
async def test_reads_that_fail_are_counted_and_other_requests_that_fail_are_no_errors_of_reads(tmp_path: Path) -> None:
    origin = FakeOrigin()
    origin.put(f"{PREFIX}v1/large", b"x" * (5 * MIB))
    async with running(tmp_path, origin, Settings(names_ttl_s=0)) as engine:
        metrics = engine.metrics
        operations = Operations(engine.library, engine.opener, engine.reader, engine.room, metrics, 0, 0)
        nobody = cast(pyfuse3.RequestContext, None)
        inode = (await operations.lookup(ROOT, DATASET.encode(), nobody)).st_ino
        for name in (b"v1", b"large"):
            inode = (await operations.lookup(inode, name, nobody)).st_ino
        opened = await operations.open(inode, 0, nobody)

        origin.fail_everything(AccessDeniedError("no"))
        dataset = operations.inodes.of_dataset(await engine.library.dataset(DATASET))
        with pytest.raises(pyfuse3.FUSEError) as refused:
            await operations.lookup(dataset, b"v2", nobody)
        assert refused.value.errno == errno.EACCES
        assert metrics.read_errors.value("EACCES") == metrics.read_requests.value() == 0

        with pytest.raises(pyfuse3.FUSEError):
            await operations.read(opened.fh, 0, 10)
        assert metrics.read_errors.value("EACCES") == metrics.read_requests.value() == 1
        assert "dsfs_read_seconds_count 1" in metrics.registry.text().splitlines()
        assert metrics.read_bytes.value() == 0
        await operations.release(opened.fh)


def test_origins_of_one_bucket_with_different_settings_are_counted_each(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    with closing(Datasets(from_document(tomllib.loads(TWO_REGIONS), Path("dsfs.toml")), metrics)) as datasets:
        counts = {
            origin: dict.fromkeys(origin.statistics(), 0) | {"get_requests": number}
            for number, origin in enumerate(datasets.origins, 10)
        }
        monkeypatch.setattr(Origin, "statistics", lambda origin: counts[origin])
        monkeypatch.setattr(Origin, "failures", lambda origin: {"refused": 3})
        for _ in range(2):  # nothing is counted twice
            datasets.count()
        assert metrics.origin_errors.value("refused") == 3 * len(counts)
        assert metrics.origin_requests.value("get") == sum(range(10, 10 + len(counts)))
        assert len(counts) > len({origin.origin_id for origin in counts})
