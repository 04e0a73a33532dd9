"""What the documents say and what the code does are the same list, each written once and compared here.

The README holds generated tables between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; a failure shows what
has to stand there.
"""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsfs import __version__, cli
from dsfs.config import SECTIONS, Config, DatasetConfig, Key, keys_of
from dsfs.doctor.visit import CHECKS
from dsfs.metrics import Metrics

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDERS = ("dsfs", "tests", "bench", "systemd", ".ci")
FILES = ("pyproject.toml", "constraints.txt", "Makefile", "README.md", "ARCHITECTURE.md", "CHANGELOG.md")
# Written so that this file does not contain them.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


def texts() -> Iterator[Path]:
    yield from (ROOT / name for name in FILES)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in ("", ".py", ".md", ".toml", ".service", ".sh", ".txt"):
                yield path


def readme_table(name: str) -> str:
    match = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README.read_text(), re.DOTALL)
    assert match, f"README.md: there is no <!-- {name}:begin --> ... <!-- {name}:end -->"
    return match[1].strip()


def config_table() -> str:
    """Every key."""
    rows = ["| key | unit | default | meaning |", "|---|---|---|---|"]
    for title, section in (("", Config), *SECTIONS.items(), ("dataset[]", DatasetConfig)):
        for name, (attribute, key) in keys_of(section).items():
            path = f"{title}.{name}" if title else name
            meaning = key.help.replace("<", "&lt;")
            rows.append(f"| `{path}` | {key.kind.unit} | {default_of(section, attribute, key)} | {meaning} |")
    return "\n".join(rows)


def default_of(section: type[Any], attribute: str, key: Key) -> str:
    if key.inherits:
        return f"`{key.inherits}`"
    if key.default is None:
        return "required"
    factory = next(field.default_factory for field in dataclasses.fields(section) if field.name == attribute)
    assert callable(factory)
    return f"`{key.kind.show(factory())}`"


def metrics_table() -> str:
    rows = ["| metric | type | meaning |", "|---|---|---|"]
    for metric in Metrics().registry:
        label = f"{{{metric.label}}}" if metric.label else ""
        rows.append(f"| `{metric.exposed_name}{label}` | {metric.type} | {metric.help} |")
    return "\n".join(rows)


def doctor_table() -> str:
    rows = ["| check | what it looks at | ok, and when not |", "|---|---|---|"]
    return "\n".join(rows + [f"| `{check.name}` | {check.asks} | {check.wants} |" for check in CHECKS])


def exit_codes_table() -> str:
    rows = ["| exit code | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code} | {meaning} |" for code, meaning in cli.EXIT_CODES.items()])


def test_nothing_is_left_unfinished() -> None:
    unfinished = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not unfinished


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("config", config_table()),
        ("metrics", metrics_table()),
        ("exit-codes", exit_codes_table()),
        ("doctor", doctor_table()),
    ],
)
def test_table_of_the_readme_is_what_the_code_says(name: str, table: str) -> None:
    assert readme_table(name) == table, f"between the marks of {name} has to stand:\n{table}"


def test_every_field_of_the_configuration_has_a_row_and_help() -> None:
    sections: list[type[Any]] = [Config, *SECTIONS.values(), DatasetConfig]
    rows = config_table().splitlines()[2:]
    assert len(rows) == sum("key" in field.metadata for section in sections for field in dataclasses.fields(section))
    assert all(len(row.split("|")) == 6 and row.endswith(". |") for row in rows)
    assert '| `backing.floor` | share | `"5%"` |' in config_table()


def test_every_promise_of_the_readme_has_its_test_and_every_test_its_promise() -> None:
    section = README.read_text().partition("\n## Semantics")[2].partition("\n## ")[0]
    promised = re.findall(r"^(?:[-*] |\| )?\**S(\d+)\b", section, re.MULTILINE)
    files = [ast.parse(path.read_text()) for path in (ROOT / "tests" / "mount").glob("test_semantics*.py")]
    functions = [node for tree in files for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    tested = [match[1] for f in functions if (match := re.match(r"test_s(\d+)_", f.name))]
    assert promised == [str(number) for number in range(1, len(promised) + 1)]
    assert promised
    assert sorted(set(tested), key=int) == promised


def test_every_command_stands_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE)
    assert commands
    text = README.read_text()
    assert not [command for command in commands if f"dsfs {command}" not in text]


def test_every_target_of_make_stands_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert re.findall(r"^(\w+):.*## ", makefile, re.MULTILINE) == phony[1].split()


def test_every_requirement_has_its_version_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s=]+", line) for line in lines if not line.startswith("#"))
    assert {re.match(r"[A-Za-z0-9-]+", name)[0].lower() for name in required} <= pinned  # type: ignore[index]


def test_changelog_begins_with_the_version_of_the_package() -> None:
    headings = re.findall(r"^## \[?([0-9][^\]\s]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__
