"""The project keeps its shape: what may import what, how large things may be, and that each module has its tests."""

import ast
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "art_sensreg"
CONTRACT = ("audit",)  # public signatures that stay as documented
FILES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted((ROOT / "benchmarks").glob("*.py"))
SOURCES = [*FILES, *PROGRAMS, *sorted((ROOT / "tests").rglob("*.py"))]
# From the ground up: a part may import those of earlier lines and of its own, in whatever order has no circle of files.
FLOORS = [
    "utils",
    "penalties.forward",
    "penalties",
    "adversaries randomization",
    "outputs penalty_lists objectives",
    "training models archives datasets augmented_data",
    "art_bridge",
    "presets classifiers",
    "attacks",
    "randomized trainers preview interpret estimator",
    "auditing",
    "art_sensreg",
    "benchmark.config",
    "benchmark.attacks",
    "benchmark.defences",
    "benchmark.results",
    "benchmark.engine benchmark.step_cost",
    "benchmark.cli",
    "benchmark __main__",
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
    assert {str(path): lines for path in SOURCES if (lines := path.read_text().count("\n")) > 320} == {}
    counts = Counter(path.parent for path in SOURCES)
    assert {str(folder): count for folder, count in counts.items() if count > 16} == {}


def test_functions_have_few_parameters():
    found = []
    torchs = ROOT / "tests" / "device" / "backend" / "kernels.py"  # operators with the signatures of torch's own
    for path in SOURCES:
        if path == torchs:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.Lambda):
                continue
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len(set(names) - {"self", "cls"}) > 6:
                found.append((path.stem, getattr(node, "name", "lambda")))
    assert [name for _, name in found if name not in (*CONTRACT, "__init__", "fit", "fit_generator")] == []


def test_nothing_imports_what_is_private_to_another_module():
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("art_sensreg"):
                found += [(path.stem, alias.name) for alias in node.names if alias.name.startswith("_")]
    assert [entry for entry in found if not entry[1].startswith("__")] == []


@pytest.mark.parametrize("folder", [path.parent for path in FILES if path.name == "__init__.py"], ids=lambda f: f.name)
def test_a_folder_says_in_a_sentence_who_lives_there(folder):
    tree = ast.parse((folder / "__init__.py").read_text())
    first = (ast.get_docstring(tree) or "").split("\n\n")[0]
    assert first.endswith((".", "`."))
    names = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)]
    assert "__all__" in names


def test_each_module_has_tests_of_its_name():
    """In the place that mirrors it: `test_NAME.py`, alone or in a folder of that name."""
    missing = []
    for path in FILES:
        place = ROOT / "tests" / path.parent.relative_to(PACKAGE)
        test = f"test_{path.name}"
        if path.name != "__init__.py" and not ((place / test).exists() or (place / path.stem / test).exists()):
            missing.append(str(path.relative_to(PACKAGE)))
    assert missing == []
