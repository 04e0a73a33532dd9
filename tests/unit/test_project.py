"""What the documents say and what the code does are the same list, each written once and compared here.

The README holds generated tables between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; a failure shows what
has to stand there.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsfs import __version__, cli, metrics
from dsfs.admin import config_text

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
        ("config", config_text.markdown_table()),
        ("metrics", metrics.markdown_table()),
        ("exit-codes", exit_codes_table()),
    ],
)
def test_table_of_the_readme_is_what_the_code_says(name: str, table: str) -> None:
    assert readme_table(name) == table.strip(), f"between the marks of {name} has to stand:\n{table}"


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
