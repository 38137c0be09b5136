"""How the files of both packages depend on each other, read from their source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = ("crysmetrics", "crysgen")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_type_checkers(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str | None]]:
    """Modules that a file imports anywhere, with a name from each; not those for type checkers."""
    if isinstance(tree, ast.If) and is_for_type_checkers(tree.test):
        for node in tree.orelse:
            yield from imported(node, module, is_package)
    elif isinstance(tree, ast.Import):
        for alias in tree.names:
            yield alias.name, None
    elif isinstance(tree, ast.ImportFrom):
        parts = module.split(".")
        base = parts[: len(parts) - tree.level + is_package] if tree.level else []
        for alias in tree.names:
            yield ".".join([*base, *filter(None, [tree.module])]), alias.name
    else:
        for node in ast.iter_child_nodes(tree):
            yield from imported(node, module, is_package)


@cache
def dependencies() -> dict[str, frozenset[str]]:
    """Files of the repository that each file imports, at its top or within a function."""
    paths = {module_name(p): p for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    found = {}
    for module, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = set()
        for source, name in imported(tree, module, path.name == "__init__.py"):
            inner = f"{source}.{name}"
            names.add(inner if inner in paths else source)
        found[module] = frozenset(names & set(paths) - {module})
    return found


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """Sets of files that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_circle_of_files() -> None:
    assert circles(dependencies()) == []


def test_circles_are_found() -> None:
    graph = {"a": "b", "b": "cd", "c": "a", "d": "e", "e": "d", "f": "a"}
    assert circles({k: frozenset(v) for k, v in graph.items()}) == [["d", "e"], ["a", "b", "c"]]
    code = "if TYPE_CHECKING:\n import a\nelse:\n import b\ndef f():\n from .c import d\n"
    code += " from . import e"
    found = list(imported(ast.parse(code), "x.y", is_package=False))
    assert found == [("b", None), ("x.c", "d"), ("x", "e")]
    assert list(imported(ast.parse("from .a import b"), "x", is_package=True)) == [("x.a", "b")]


# Each room imports those below it alone.
ORDER = ("cli", "evaluation", "metrics", "features", "io")
ROOMS = {
    "crysmetrics.cli": "cli",
    "crysmetrics.entry": "cli",
    "crysmetrics.evaluation": "evaluation",
    "crysmetrics.streaming": "evaluation",
    "crysmetrics.callback": "evaluation",
    "crysmetrics.functions": "evaluation",
    "crysmetrics.protocols": "evaluation",
    "crysmetrics.reporting": "evaluation",
    "crysmetrics.metrics": "metrics",
    "crysmetrics.features": "features",
    "crysmetrics.io": "io",
}


def room(module: str) -> str | None:
    return next((r for top, r in ROOMS.items() if f"{module}.".startswith(f"{top}.")), None)


def reachable(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for other in dependencies()[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


@pytest.mark.parametrize("place", ORDER)
def test_dependencies_point_one_way(place: str) -> None:
    above = ORDER[: ORDER.index(place)]
    wrong = [
        f"{module} -> {other}"
        for module in dependencies()
        if room(module) == place
        for other in reachable(module)
        if room(other) in above
    ]
    assert not wrong


def test_crysmetrics_never_imports_crysgen() -> None:
    assert not [
        module
        for module, others in dependencies().items()
        if module.startswith("crysmetrics") and any(o.startswith("crysgen") for o in others)
    ]


def test_numba_is_reached_by_the_one_door_that_has_a_place_for_its_cache() -> None:
    users = [
        path.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for source, name in imported(ast.parse(path.read_text(encoding="utf-8")), "x", False)
        if source == "numba" and name in (None, "njit", "jit")
    ]
    assert users == ["compiled.py"]


@pytest.mark.parametrize(
    ("text", "door"),
    [
        (r"\(Console\)|[= ]Console\(", "console.py"),
        (r"\.to_csv\(", "csv_files.py"),
        (r"import ProcessPoolExecutor|get_reusable_executor\(|\bParallel\(", "parallel.py"),
        (r"user_(cache|data)_dir\(", "folders.py"),
        (r"signal\.set_wakeup_fd", "interrupts.py"),
    ],
)
def test_there_is_one_door_for_each(text: str, door: str) -> None:
    users = {
        path.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if re.search(text, path.read_text(encoding="utf-8"))
    }
    assert users == {door}


HEAVY = (
    *("numpy", "pandas", "torch", "scipy", "numba", "pymatgen", "matplotlib", "gemmi", "ase"),
    *("joblib", "rich", "sqlite3", "asyncio", "multiprocessing", "platformdirs", "jinja2"),
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["crysmetrics", "--help"],
        ["crysmetrics", "--version"],
        ["crysmetrics", "evaluate", "--help"],
        ["crysmetrics", "compare", "--help"],
        ["crysgen", "--help"],
        ["crysgen", "sample", "--help"],
        ["crysgen", "train", "--help"],
        ["crysgen", "train", "gemsdiff", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program, *rest = arguments
    code = f"import sys; sys.argv[1:] = {rest}\nfrom {program}.entry import main\nmain()"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 20
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert not modules & set(HEAVY)
    assert "Usage" in done.stdout or "version" in done.stdout
