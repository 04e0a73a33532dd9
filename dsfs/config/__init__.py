"""The configuration: one list of keys for loading, messages, `dsfs config show` and the README table.

The list is the dataclasses below: each field carries its kind, default and help (`_key`).  Its name is that
of the TOML key, with the unit behind it where the value has one (`limit_bytes` is `limit`).  Every error is a
ConfigError of one line per problem, each naming file, key, the value found and what was expected.
How the list is printed is admin/config_text.py.
"""

# ruff: noqa: RUF009 - _key() gives a dataclasses.field, whose default is made anew for each instance

import grp
import pwd
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dsfs.model import setting
from dsfs.model.errors import NotFoundError
from dsfs.model.printable import printable
from dsfs.model.quantity import Share
from dsfs.model.retention import Retention
from dsfs.model.s3url import S3Url

DEFAULT_PATH = Path("/etc/dsfs/dsfs.toml")
LEVELS = ("debug", "info", "warning", "error")
LEAST_MEMORY = "64MiB"
LEAST_BACKING = "1MiB"

STALE_AFTER = setting.duration(at_least="1h", at_most="3650d")
KEEP_NEWEST = setting.count(at_least=0, at_most=1000)


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about one key; `default` is what one would write in TOML, None for a required key.

    `inherits` names the key ("origin.region") whose value counts where a [[dataset]] leaves this one out.
    """

    kind: setting.Kind[Any]
    help: str
    default: object = None
    inherits: str = ""


def _key(kind: setting.Kind[Any], help: str, default: object = None, *, inherits: str = "") -> Any:
    key = {"key": Key(kind, help, default, inherits)}
    if default is None:
        return field(metadata=key)
    return field(metadata=key, default_factory=lambda: kind.parse(default))


@dataclass(frozen=True, slots=True)
class Account:
    """A user or group: the name as configured, and its number on this machine."""

    name: str
    id: int


def _account_kind(what: str, lookup: Callable[[str], int]) -> setting.Kind[Account]:
    expected = f"the name of a {what} of this machine, or its number"

    def parse(raw: object) -> Account:
        text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"expected {expected}")
        if text.isascii() and text.isdigit() and int(text) < 2**32 - 1:
            return Account(text, int(text))
        try:
            return Account(text, lookup(text))
        except KeyError:
            raise ValueError(f"expected {expected}") from None

    return setting.Kind(expected, "name or number", parse, lambda account: setting.toml_string(account.name))


OWNER = _account_kind("user", lambda name: pwd.getpwnam(name).pw_uid)
GROUP = _account_kind("group", lambda name: grp.getgrnam(name).gr_gid)


def module_names() -> frozenset[str]:
    """The names that log.levels may hold: the packages and modules of dsfs ("cache", "cache.fetch")."""
    root = Path(__file__).parents[1]
    relative = (path.relative_to(root) for path in root.rglob("*.py"))
    modules = (
        path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts for path in relative
    )
    return frozenset(".".join(names) for names in modules if names)


def _parse_levels(raw: object) -> Mapping[str, str]:
    if not isinstance(raw, Mapping) or not all(level in LEVELS for level in raw.values()):
        raise ValueError(f"expected {_LEVELS_EXPECTED}")
    known = module_names() if raw else frozenset()
    for name in raw:
        if name not in known:
            raise ValueError(f"no module is named {name}{setting.nearest(name, known)}")
    return MappingProxyType(dict(raw))


def _show_levels(levels: Mapping[str, str]) -> str:
    pairs = (f"{setting.toml_string(name)} = {setting.toml_string(level)}" for name, level in levels.items())
    return "{ " + ", ".join(pairs) + " }" if levels else "{}"


_LEVELS_EXPECTED = f'a level ({", ".join(LEVELS)}) for each module, such as {{ "cache.fetch" = "debug" }}'
MODULE_LEVELS = setting.Kind(_LEVELS_EXPECTED, "levels", _parse_levels, _show_levels)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginConfig:
    """[origin]: the object store.  Credentials come from the standard AWS chain, never from here."""

    url: S3Url | None = _key(
        setting.or_nothing(setting.LOCATION),
        "Where the datasets lie: <name>/<version>/... below it. Not needed if every dataset is listed.",
        "",
    )
    endpoint_url: str | None = _key(setting.or_nothing(setting.ENDPOINT), 'The S3 service; "" is AWS.', "")
    region: str | None = _key(
        setting.or_nothing(setting.REGION), 'The region of the bucket; "" is what the AWS chain says.', ""
    )
    unsigned: bool = _key(setting.FLAG, "Send no credentials (public buckets).", False)
    connections: int = _key(
        setting.count(at_least=1, at_most=256), "Requests under way at once, for each bucket.", 64
    )
    timeout_s: float = _key(
        setting.duration(at_least="1s", at_most="1h"), "A reader waits at most so long, then gets EIO.", "30s"
    )
    connect_timeout_s: float = _key(
        setting.duration(at_least="100ms", at_most="5m"), "Longest wait for a connection.", "5s"
    )
    stall_timeout_s: float = _key(
        setting.duration(at_least="100ms", at_most="5m"),
        "A request that delivers nothing for so long is given up and tried again.",
        "10s",
    )
    names_ttl_s: float = _key(
        setting.duration(at_least="0s", at_most="1d"),
        "How long the list of datasets and versions is believed.",
        "10s",
    )
    list_timeout_s: float = _key(
        setting.duration(at_least="1s", at_most="1d"),
        "Longest that a first look into a version waits for its listing.",
        "10m",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingConfig:
    """[backing]: the directory all nodes share, on NFS or any other POSIX file system."""

    path: Path = _key(setting.ABSOLUTE_PATH, "The backing directory.")
    limit_bytes: int = _key(setting.size(at_least=LEAST_BACKING), "The most dsfs uses there, on all nodes together.")
    timeout_s: float = _key(
        setting.duration(at_least="1s", at_most="5m"),
        "An operation there that takes longer is not waited for: the origin is asked until it answers again.",
        "5s",
    )
    floor: Share = _key(setting.SHARE, "Free space it never takes, of the file system or as a size.", "5%")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """[retention]: what leaves the cache, and when."""

    stale_after_s: float = _key(STALE_AFTER, "A version that nobody used for so long leaves.", "7d")
    high_watermark: Share = _key(
        setting.SHARE, "Above it, what is used least leaves; of backing.limit or as a size.", "90%"
    )
    low_watermark: Share = _key(
        setting.SHARE, "Down to it, which is less; of backing.limit or as a size.", "80%"
    )
    keep_newest: int = _key(KEEP_NEWEST, "So many of the newest versions of a dataset never become stale.", 1)
    max_share: Share = _key(
        setting.SHARE, "The most that one dataset may hold; of backing.limit or as a size.", "100%"
    )
    grace_s: float = _key(
        setting.duration(at_least="0s", at_most="1d"),
        "What leaves is hidden first, and deleted after so long; in any case a minute or two pass.",
        "10m",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """[memory]: what the daemon may use."""

    limit_bytes: int = _key(setting.size(at_least=LEAST_MEMORY), "All buffers together.", "512MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountConfig:
    """[mount]: how files look, unless a [[dataset]] says otherwise."""

    owner: Account = _key(OWNER, "The user that owns files and directories.", "root")
    group: Account = _key(GROUP, "The group that owns files and directories.", "root")
    mode: int = _key(setting.MODE, "Mode of files; directories get x where it has r.", "0444")
    allow_other: bool = _key(setting.FLAG, "Let users other than the daemon's own in.", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """[log]: what the daemon writes to its standard error."""

    level: str = _key(setting.choice(*LEVELS), "The least important messages to write.", "info")
    format: str = _key(setting.choice("text", "json"), "A line of text or a JSON object each.", "text")
    levels: Mapping[str, str] = _key(MODULE_LEVELS, "Another level for single modules.", MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """[[dataset]], any number: a dataset under another name, from elsewhere, or with another owner."""

    name: str = _key(setting.COMPONENT, "Its directory below the mountpoint.")
    url: S3Url = _key(setting.LOCATION, "Where its versions lie.", inherits="origin.url/<name>")
    endpoint_url: str | None = _key(
        setting.or_nothing(setting.ENDPOINT), 'The S3 service; "" is AWS.', inherits="origin.endpoint_url"
    )
    region: str | None = _key(
        setting.or_nothing(setting.REGION), "The region of the bucket.", inherits="origin.region"
    )
    unsigned: bool = _key(setting.FLAG, "Send no credentials.", inherits="origin.unsigned")
    owner: Account = _key(OWNER, "The user that owns its files and directories.", inherits="mount.owner")
    group: Account = _key(GROUP, "The group that owns its files and directories.", inherits="mount.group")
    mode: int = _key(setting.MODE, "Mode of its files.", inherits="mount.mode")
    stale_after_s: float = _key(
        STALE_AFTER, "Its versions leave when unused for so long.", inherits="retention.stale_after"
    )
    keep_newest: int = _key(
        KEEP_NEWEST, "So many of its newest versions never become stale.", inherits="retention.keep_newest"
    )
    max_share: Share = _key(setting.SHARE, "The most that it may hold.", inherits="retention.max_share")

    @property
    def dir_mode(self) -> int:
        """Mode of its directories: that of files, with x where it has r."""
        return self.mode | (self.mode & 0o444) >> 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that was read, completed with defaults and checked; datasets are fully resolved."""

    mountpoint: Path = _key(setting.ABSOLUTE_PATH, "Where the datasets appear.")
    state_dir: Path = _key(
        setting.ABSOLUTE_PATH,
        "Local disk (never NFS) for the residency index, catalogs, control socket and log.",
        "/var/lib/dsfs",
    )
    origin: OriginConfig = field(default_factory=OriginConfig)
    backing: BackingConfig
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    mount: MountConfig = field(default_factory=MountConfig)
    log: LogConfig = field(default_factory=LogConfig)
    datasets: tuple[DatasetConfig, ...] = ()
    source: Path = field(default=DEFAULT_PATH, compare=False)

    @property
    def control_socket(self) -> Path:
        return self.state_dir / "control.sock"

    @property
    def log_file(self) -> Path:
        """Where a daemon in the background writes its log."""
        return self.state_dir / "dsfs.log"

    def retention_of(self, name: str) -> Retention:
        """How a dataset is kept; also one that is not configured any more, and is still in the cache."""
        try:
            found: DatasetConfig | RetentionConfig = self.dataset(name)
        except NotFoundError:
            found = self.retention
        return Retention(found.stale_after_s, found.keep_newest, found.max_share.of(self.backing.limit_bytes))

    def dataset(self, name: str) -> DatasetConfig:
        """What holds for a dataset, listed in the configuration or found at the origin.

        Raises NotFoundError where it is not listed and there is no origin.url it could be found below.
        """
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        if self.origin.url is None:
            raise NotFoundError(f"no dataset is named {printable(name)}")
        return DatasetConfig(name=name, **inherited(name, {title: getattr(self, title) for title in SECTIONS}))


SECTIONS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "origin": OriginConfig,
        "backing": BackingConfig,
        "retention": RetentionConfig,
        "memory": MemoryConfig,
        "mount": MountConfig,
        "log": LogConfig,
    }
)


def keys_of(section: type[Any]) -> dict[str, tuple[str, Key]]:
    """The keys of a section in their order: TOML name -> (field name, key)."""
    return {toml_name(f): (f.name, f.metadata["key"]) for f in fields(section) if "key" in f.metadata}


def toml_name(f: "Field[Any]") -> str:
    """A field's name without its unit."""
    return f.name.removesuffix("_s").removesuffix("_bytes")


def inherited(name: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    """What a dataset has for the keys its [[dataset]] leaves out, given the sections by title.

    No `url` where there is no origin.url.
    """
    values = {}
    for attribute, key in keys_of(DatasetConfig).values():
        title, _, source = key.inherits.partition(".")
        if key.inherits and attribute != "url":
            source_attribute, _ = keys_of(SECTIONS[title])[source]
            values[attribute] = getattr(tables[title], source_attribute)
    origin = tables["origin"]
    if origin.url is not None:
        values["url"] = origin.url.below(name)
    return values
