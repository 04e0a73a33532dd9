"""Reading a configuration: from a TOML file to a checked Config.

Every error is a ConfigError of one line per problem, each naming file, key, the value found and what was expected.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsfs.config import DEFAULT_PATH, SECTIONS, Config, DatasetConfig, inherited, keys_of
from dsfs.model import setting
from dsfs.model.errors import ConfigError
from dsfs.model.printable import printable


def load(path: Path) -> Config:
    """The configuration in the TOML file `path`; ConfigError says all that is wrong with it."""
    try:
        text = path.read_bytes().decode()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8 text (byte {exc.start})") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {printable(str(exc))}") from None
    return from_document(document, path)


def from_document(document: Mapping[str, Any], source: Path = DEFAULT_PATH) -> Config:
    """The configuration in a parsed TOML document; `source` is what messages call it."""
    problems: list[str] = []

    def stop_at_problems() -> None:
        if problems:
            raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))

    raw = dict(document)
    raw_datasets = raw.pop("dataset", [])
    raw_sections = {name: raw.pop(name, {}) for name in SECTIONS}
    top = _values(Config, raw, "", problems, also_known=("dataset", *SECTIONS))
    sections = {
        name: _values(section, raw_sections[name], f"[{name}]", problems)
        for name, section in SECTIONS.items()
    }
    if not isinstance(raw_datasets, list):
        problems.append("[dataset]: there may be several: write [[dataset]]")
        raw_datasets = []
    datasets = [_values(DatasetConfig, raw, _where(i, raw), problems) for i, raw in enumerate(raw_datasets)]
    stop_at_problems()

    tables: dict[str, Any] = {name: section(**sections[name]) for name, section in SECTIONS.items()}
    resolved = []
    for i, given in enumerate(datasets):
        values = inherited(given["name"], tables) | given
        if "url" in values:
            resolved.append(DatasetConfig(**values))
        else:
            problems.append(f"{_where(i, given)} url: missing (there is no [origin] url it could lie below)")
    config = Config(**top, **tables, datasets=tuple(resolved), source=source)
    if not raw_datasets and config.origin.url is None:
        problems.append("[origin] url: missing, and no [[dataset]] either: one of them is needed")
    problems += _contradictions(config)
    stop_at_problems()
    return config


def _where(position: int, dataset: object) -> str:
    """What a message calls a [[dataset]]: by its name if it has one, else by its position."""
    name = dataset.get("name") if isinstance(dataset, Mapping) else None
    return f"[[dataset]] {setting.shown(name) if isinstance(name, str) else f'number {position + 1}'}"


def _values(
    section: type[Any], raw: object, where: str, problems: list[str], also_known: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The values of the keys that are given, by field name; what is wrong is added to `problems`."""
    if not isinstance(raw, Mapping):
        problems.append(f"{where}: expected a table, found {setting.shown(raw)}")
        return {}
    keys = keys_of(section)
    values = {}
    for name, (attribute, key) in keys.items():
        if name in raw:
            try:
                values[attribute] = key.kind.parse(raw[name])
            except ValueError as exc:
                problems.append(f"{where} {name}: {setting.shown(raw[name])}: {printable(str(exc))}".lstrip())
        elif key.default is None and not key.inherits:
            problems.append(f"{where} {name}: missing (expected {key.kind.expected})".lstrip())
    for name in raw:
        if name not in keys:
            hint = setting.nearest(name, [*keys, *also_known]) or _elsewhere(name)
            problems.append(f"{where} {printable(name)}: unknown key{hint}".lstrip())
    return values


def _elsewhere(name: str) -> str:
    homes = [f"[{title}]" for title, section in SECTIONS.items() if name in keys_of(section)]
    return f" (it belongs in {' or '.join(homes)})" if homes else ""


def _contradictions(config: Config) -> list[str]:
    """What cannot be right although every single value is."""
    problems = []
    mountpoint, state_dir, backing = config.mountpoint, config.state_dir, config.backing.path
    if mountpoint == Path("/"):
        return ["mountpoint: cannot be /"]
    if state_dir == backing:
        problems.append(f"[backing] path: {backing} is the state_dir; every node needs its own")
    if state_dir.is_relative_to(mountpoint):
        problems.append(
            f"state_dir: {state_dir} lies below the mountpoint {mountpoint}: dsfs would wait for itself"
        )
    if backing.is_relative_to(mountpoint):
        problems.append(
            f"[backing] path: {backing} lies below the mountpoint {mountpoint}: dsfs would wait for itself"
        )
    limit_bytes = config.backing.limit_bytes
    low, high = config.retention.low_watermark, config.retention.high_watermark
    if high.of(limit_bytes) > limit_bytes:
        problems.append(f"[retention] high_watermark: {high} is more than [backing] limit")
    if low.of(limit_bytes) >= high.of(limit_bytes):
        problems.append(f"[retention] low_watermark: {low} is not below high_watermark, {high}")
    names = [dataset.name for dataset in config.datasets]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems += [f"[[dataset]] {setting.shown(name)}: more than one has this name" for name in repeated]
    return problems
