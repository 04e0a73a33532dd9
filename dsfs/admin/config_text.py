"""The configuration as text: TOML with comments, and values for JSON."""

from collections.abc import Iterator
from typing import Any

from dsfs.config import SECTIONS, Config, Key, keys_of


def to_toml(config: Config) -> str:
    """The configuration in effect, each key with its help; reading it again gives an equal configuration."""
    blocks = [f"# In effect, read from {config.source}", "\n".join(_lines(config))]
    blocks += [f"[{name}]\n" + "\n".join(_lines(getattr(config, name))) for name in SECTIONS]
    blocks += ["[[dataset]]\n" + "\n".join(_lines(dataset)) for dataset in config.datasets]
    return "\n\n".join(blocks) + "\n"


def _lines(section: Any) -> Iterator[str]:
    for name, (attribute, key) in keys_of(type(section)).items():
        yield f"# {key.help}"
        yield f"{name} = {key.kind.show(getattr(section, attribute))}"


def to_json(config: Config) -> dict[str, Any]:
    """The configuration in effect under its field names: sizes in bytes, durations in seconds."""
    document: dict[str, Any] = {"source": str(config.source)} | _plain(config)
    document |= {name: _plain(getattr(config, name)) for name in SECTIONS}
    document["datasets"] = [_plain(dataset) for dataset in config.datasets]
    return document


def _plain(section: Any) -> dict[str, Any]:
    return {
        attribute: _plain_value(getattr(section, attribute), key)
        for attribute, key in keys_of(type(section)).values()
    }


def _plain_value(value: Any, key: Key) -> Any:
    if key.kind.unit == "mode":
        return f"{value:04o}"
    if value is None or isinstance(value, bool | int | float):
        return value
    if key.kind.unit == "levels":
        return dict(value)
    return value.name if key.kind.unit == "name or number" else str(value)
