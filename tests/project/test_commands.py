"""Every command in the README and in docs/ runs as it is written, with options after it that make it small.

The fast tests read all of them, and run those of few defences and without audits.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.auditing import CHECKS
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.cli.command import main
from art_sensreg.benchmark.defences import DEFENCES
from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Run by CI itself (make), at its start (pip), by the tests of several processes (torchrun), of the search and of the
# experiments.
ELSEWHERE = (
    *("make", "pip", "torchrun", ".venv/bin/pre-commit", "docker"),
    *(f"python benchmarks/{name}.py" for name in ("choose_settings", "experiment", "equal_cost")),
)
SCRIPTS = {"run_art_suite.py": "bench", "audit.py": "audit", "step_cost.py": "step-cost"}
SMALL = {
    "bench": "--train-size 150 --test-size 10 --epochs 1 --model mlp --device cpu --attacks fgm --seeds 1 --quiet",
    "audit": "--train-size 150 --points 20 --epochs 1 --quick --checks deterministic --quiet",
    "list": "",
    "report": "",
    "step-cost": "--model mlp --variants plain,sr+jr --repeats 1 --epoch-steps 2 --no-memory",
}


def commands():
    """The lines of the pages' shell blocks, without comments, each once."""
    blocks = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(" ".join(shlex.split(line, comments=True)) for line in lines if line))


def words_of(command):
    """What follows `art-sensreg`; programs under benchmarks/ are its subcommands."""
    words = shlex.split(command)
    if words[0] == "python":
        words = ["art-sensreg", SCRIPTS[Path(words[1]).name], *words[2:]]
    assert words[0] == "art-sensreg"
    return words[1:]


TESTED = [command for command in commands() if not command.startswith(ELSEWHERE)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of."""
    rng = np.random.default_rng(0)
    y = np.arange(150) % 10
    data = tmp_path / "DIR"
    data.mkdir()
    for path, shape in (
        (tmp_path / "my_images.npz", (8, 8)),
        (data / "mnist.npz", (28, 28)),
        (data / "cifar10.npz", (32, 32, 3)),
    ):
        images = rng.integers(0, 256, (150, *shape), dtype=np.uint8)
        np.savez(path, x_train=images, y_train=y, x_test=images[:20], y_test=y[:20])
    pages = (ROOT / "docs/extending.md").read_text() + (ROOT / "docs/suite.md").read_text()
    for name, text in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", pages, re.DOTALL):
        (tmp_path / name).write_text(text)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))  # that of docs/suite.md
    torch.save(network.state_dict(), tmp_path / "my_net.pt")
    monkeypatch.chdir(tmp_path)
    before = [(registry, dict(registry)) for registry in (DEFENCES, ATTACKS, CHECKS)]
    for name in set(CHECKS) - {"deterministic"}:  # all of them have tests of their own
        del CHECKS[name]
    yield tmp_path
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def run(command):
    name, *words = words_of(command)
    small = SMALL[name].replace("--model mlp ", "") if "my_net.py:build" in words else SMALL[name]
    if name == "audit" and "--defence" not in words:
        small = small.replace("--epochs 1 ", "")  # nothing is trained
    return main([name, *words, *small.split()])


def is_light(command):
    return command.startswith("art-sensreg list") or ("none,sr+jr" in command and "art-" not in command[11:])


def test_the_pages_have_commands_of_each_kind():
    assert {words_of(command)[0] for command in TESTED} >= {"bench", "audit", "list", "step-cost"}


@pytest.mark.parametrize("command", [each for each in TESTED if words_of(each)[0] not in ("audit", "report")])
def test_the_options_of_a_command_exist(command, folder):
    name, *words = words_of(command)
    assert main([name, *words, *([] if name == "list" else ["--list"])]) == 0


@pytest.mark.parametrize("command", [command for command in TESTED if is_light(command)])
def test_a_light_command_runs(command, folder):
    assert run(command) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in TESTED if not is_light(command)])
def test_a_command_runs(command, folder):
    if "results/mine/" in command or " report " in command:
        assert run("art-sensreg bench --defences none,sr+jr --out results/mine") == 0
    assert run(command) == 0
