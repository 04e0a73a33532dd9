"""The datasets of the configuration and their origins: one Origin for each bucket and endpoint.

Concurrency: the trio thread.
"""

from collections import Counter

from dsfs.cache.names import OriginPrefix
from dsfs.cache.versions import Dataset
from dsfs.config import Config, DatasetConfig
from dsfs.metrics import OPERATIONS, Metrics
from dsfs.storage.origin import Origin
from dsfs.storage.origin_settings import OriginSettings

# A whole answer may take so long; a run is 4 MiB, so slower than 70 kB/s a connection counts as a fault.
REQUEST_TIMEOUT_S = 60.0


class Datasets:
    """`configured`.

    Names that are there whatever the origin lists; `home`: where datasets that nobody configured lie.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._origins: dict[OriginSettings, Origin] = {}
        # By the origin, not its id: two settings for one bucket share that.
        self._counted: dict[Origin, tuple[Counter[str], Counter[str]]] = {}
        self.configured = [dataset.name for dataset in config.datasets]
        self.home: OriginPrefix | None = None
        if (url := config.origin.url) is not None:
            settings = self._settings(
                url.bucket, config.origin.endpoint_url, config.origin.region, config.origin.unsigned
            )
            self.home = OriginPrefix(self._origin(settings), url.key_prefix)
        for dataset in config.datasets:
            self.find(dataset.name)

    @property
    def origins(self) -> list[Origin]:
        return list(self._origins.values())

    def find(self, name: str) -> Dataset:
        """The dataset as it is configured, or as `origin.url` has it; NotFoundError if neither has."""
        found: DatasetConfig = self._config.dataset(name)
        settings = self._settings(found.url.bucket, found.endpoint_url, found.region, found.unsigned)
        return Dataset(
            name=name,
            origin=self._origin(settings),
            prefix=found.url.key_prefix,
            uid=found.owner.id,
            gid=found.group.id,
            file_mode=found.mode,
            dir_mode=found.dir_mode,
        )

    def _settings(self, bucket: str, endpoint_url: str | None, region: str | None, unsigned: bool) -> OriginSettings:
        origin = self._config.origin
        return OriginSettings(
            bucket=bucket,
            endpoint_url=endpoint_url,
            region=region,
            connections=origin.connections,
            connect_timeout_s=origin.connect_timeout_s,
            stall_timeout_s=origin.stall_timeout_s,
            request_timeout_s=REQUEST_TIMEOUT_S,
            unsigned=unsigned,
        )

    def _origin(self, settings: OriginSettings) -> Origin:
        if settings not in self._origins:
            self._origins[settings] = Origin(settings)
        return self._origins[settings]

    def count(self) -> None:
        """Bring the metrics up to what the origins have counted since the last call."""
        for origin in self.origins:
            now, failures = Counter(origin.statistics()), Counter(origin.failures())
            before, failures_before = self._counted.get(origin, (Counter(), Counter()))
            for operation in OPERATIONS:
                name = f"{operation}_requests"
                self._metrics.origin_requests.add(now[name] - before[name], label=operation)
            self._metrics.origin_bytes.add(now["get_bytes"] - before["get_bytes"])
            for kind in failures:
                self._metrics.origin_errors.add(failures[kind] - failures_before[kind], label=kind)
            self._counted[origin] = now, failures

    def close(self) -> None:
        for origin in self.origins:
            origin.close()
