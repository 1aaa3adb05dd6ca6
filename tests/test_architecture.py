"""The house keeps its shape: which part may import which, and how large files, folders and signatures may be."""

import ast
from graphlib import TopologicalSorter

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "art_sensreg"
CONTRACT = ("audit",)  # public signatures that stay as documented
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up: a part may import those of earlier lines and of its own, in whatever order has no circle of files.
FLOORS = [
    "utils",
    "penalties.forward",
    "penalties",
    "adversaries randomization",
    "outputs penalty_lists objectives",
    "training models archives datasets",
    "art_bridge",
    "presets classifiers",
    "attacks",
    "randomized trainers preview interpret",
    "auditing",
    "art_sensreg",
    "benchmark.config",
    "benchmark.attacks",
    "benchmark.defences",
    "benchmark.results",
    "benchmark.engine",
    "benchmark.cli",
    "benchmark",
]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("art_sensreg"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def floor(module):
    """The number of the line that names the longest part of a module's name."""
    part = module.removeprefix("art_sensreg").removeprefix(".")
    while part:
        for number, parts in enumerate(FLOORS):
            if part in parts.split():
                return number
        part = part.rpartition(".")[0]
    return FLOORS.index("art_sensreg")  # the package's own face


def test_no_circle_of_imports():
    list(TopologicalSorter({name: set(imports(path)) - {name} for name, path in MODULES.items()}).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_no_upward_arrow(module):
    assert [name for name in imports(MODULES[module]) if floor(name) > floor(module)] == []


def test_files_and_folders_are_small():
    assert {path.name: lines for path in FILES if (lines := path.read_text().count("\n")) > 320} == {}
    folders = {path.parent for path in FILES}
    assert {folder.name: count for folder in folders if (count := len(list(folder.glob("*.py")))) > 16} == {}


def test_functions_have_few_parameters():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name not in (*CONTRACT, "__init__", "fit", "fit_generator"):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len(set(names) - {"self", "cls"}) > 6:
                    found.append(f"{name_of(path)}.{node.name}")
    assert found == []
