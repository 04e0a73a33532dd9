"""The folders are the architecture: imports go down only, never round, and modules stay small."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pyfuse3
import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [  # bottom to top; those of one line may not import each other
    {"model"},
    {"config", "metrics", "logs"},
    {"storage"},
    {"cache"},
    {"mount", "admin"},
    {"doctor"},
    {"assembly"},
    {"daemon"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ONLY_BELOW = {  # an outside library is known to the modules whose names begin like this
    "boto3": "dsfs.storage.origin",
    "botocore": "dsfs.storage.origin",
    "obstore": "dsfs.storage.origin",
    "lmdb": "dsfs.storage.",
    "pyfuse3": "dsfs.mount.",
}
NOT_NOUNS = {"utils", "util", "common", "helpers", "misc", "manager", "base"}
MAX_LINES = 400
# What whoever evicts will ask, which no daemon does yet.
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def python_files(*folders: str) -> dict[str, Path]:
    """Every module below the folders, by its dotted name."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = python_files("dsfs")
EVERYTHING = python_files("dsfs", "tests", "bench")


def imported(path: Path) -> set[str]:
    """Every import, also those inside functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write absolute imports"
            full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in EVERYTHING else str(node.module) for name in full.values()}
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def layer(module: str) -> str:
    """The part of dsfs a module belongs to; "" for the package itself and what starts it."""
    part = module.split(".")[1] if "." in module else ""
    return "" if part == "__main__" else part


def test_every_module_belongs_to_a_layer() -> None:
    assert {layer(name) for name in MODULES} <= {*RANK, ""}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    for target in IMPORTS[name] & MODULES.keys():
        here, there = layer(name), layer(target)
        if here and there and here != there:
            assert RANK[here] > RANK[there], f"{name} imports {target}"


def test_no_circles() -> None:
    graph = {name: (targets & MODULES.keys()) - {name} for name, targets in IMPORTS.items()}
    while leaves := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"import circle among {sorted(graph)}"


@pytest.mark.parametrize("library", ONLY_BELOW)
def test_outside_library_stays_behind_its_adapter(library: str) -> None:
    users = {name for name, targets in IMPORTS.items() if library in {t.split(".")[0] for t in targets}}
    assert not {name for name in users if not name.startswith(ONLY_BELOW[library])}


def test_model_imports_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"dsfs"}
    for name, targets in IMPORTS.items():
        if layer(name) == "model":
            assert {target.split(".")[0] for target in targets} <= allowed, name


def test_dsfs_imports_what_it_requires_and_nothing_of_its_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[^\w-]", name)[0] for name in project["dependencies"]}
    required |= {"botocore", "elftools"}  # what boto3 and pyelftools are called inside
    for name, targets in IMPORTS.items():
        assert {target.split(".")[0] for target in targets} <= sys.stdlib_module_names | required | {"dsfs"}, name


def test_bench_builds_on_the_rig_of_the_tests_and_not_the_other_way_round() -> None:
    for name, path in EVERYTHING.items():
        targets = imported(path)
        if name.startswith("bench"):
            assert all(target.startswith("tests.rig.") for target in targets if target.startswith("tests")), name
        elif not name.startswith("tests.unit."):
            assert not any(target.split(".")[0] == "bench" for target in targets), name


def test_what_is_defined_is_used_by_more_than_tests() -> None:
    """By its name alone, so one that something else has, too, is not found."""
    defined: dict[str, str] = {}
    used = set(dir(pyfuse3.Operations))  # which calls what is named like this
    trees = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
    for module, tree in trees.items():
        nodes = (node for node in ast.walk(tree) if isinstance(node, DEFINITIONS))
        defined |= {node.name: module for node in nodes}
        constants = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
        defined |= {target.id: module for target in constants if isinstance(target, ast.Name)}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
    assert {f"{defined[name]}.{name}" for name in defined.keys() - used if not name.startswith("__")} == set()


@pytest.mark.parametrize("name", EVERYTHING)
def test_module_is_small_and_named_after_what_it_is(name: str) -> None:
    assert len(EVERYTHING[name].read_text().splitlines()) <= MAX_LINES
    assert not NOT_NOUNS.intersection(name.split("."))


@pytest.mark.parametrize("name", EVERYTHING)
def test_imports_are_absolute(name: str) -> None:
    imported(EVERYTHING[name])
