"""Trained defences attacked side by side give what one process gives."""

import os
import subprocess
import sys

import pytest

from art_sensreg.benchmark.cli.suite import main
from tests.benchmark.runs import SCRIPT, results

SMALL = ["--train-size", "300", "--test-size", "40", "--epochs", "2", "--model", "mlp", "--quiet"]
DEFENCES = "none,sr,jr,art-rounded,art-gaussian-augmentation"


def run_here(out, *arguments):
    code = main(["--out", str(out), "--defences", DEFENCES, "--attacks", "fgm,pgd", *SMALL, *arguments])
    return code, results(out)["runs"], ""


def run(out, *arguments):
    """The suite in a process of its own: what is forked from one with threads may hang."""
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--defences", DEFENCES, "--attacks", "fgm,pgd", *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=200)
    return done.returncode, results(out)["runs"], done.stdout


TIMES = ("seconds", "train_seconds", "step_cost", "step_cost_repeats")


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    ways = {"1": run_here, "2": run}
    return {jobs: (folder / jobs, *way(folder / jobs, "--jobs", jobs)) for jobs, way in ways.items()}


def test_the_outcome_does_not_depend_on_the_number_of_processes(finished):
    one, two = finished["1"], finished["2"]
    assert one[1] == two[1] == 0
    assert without_times(one[2]) == without_times(two[2])
    assert sorted(path.name for path in (one[0] / "masks").iterdir()) == sorted(
        path.name for path in (two[0] / "masks").iterdir()
    )


@pytest.mark.slow
def test_a_finished_run_is_resumed_by_several(finished):
    out, _, before, _ = finished["1"]
    code, after, _ = run(out, "--jobs", "2", "--resume")
    assert code == 0
    assert after == before


def test_a_worker_that_ctrl_c_reaches_at_its_start_says_nothing(tmp_path):
    """It reaches all; the parent alone says so. Here it comes before the worker has run a line of its own."""
    program = tmp_path / "program.py"
    program.write_text(
        "import signal\nfrom art_sensreg.benchmark.engine import workers\noriginal = workers._work\n"
        "def work(*arguments):\n    signal.raise_signal(signal.SIGINT)\n    original(*arguments)\n"
        "if __name__ == '__main__':\n    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    workers._work = work\n    connection = workers._start([], None)\n    connection.close()\n"
        "    workers.multiprocessing.active_children()[0].join(60)\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_and_the_rest_is_kept(tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import os\nfrom art_sensreg.benchmark.engine import suite\noriginal = suite.attack_run\n"
        "def attack_run(run, progress):\n"
        "    if run.name == 'jr':\n        os._exit(1)\n"
        "    original(run, progress)\n"
        "suite.attack_run = attack_run\n"
    )
    code, runs, shown = run(tmp_path / "run", "--jobs", "1", "--plugin", str(plugin))
    assert code == 1  # with one process it is the suite itself that dies
    code, runs, shown = run(tmp_path / "run", "--jobs", "3", "--plugin", str(plugin), "--resume")
    assert code == 1
    status = {entry["defence"]: entry["status"] for entry in runs}
    assert status["jr"] == "error"
    assert {status[name] for name in ("none", "sr")} == {"ok"}
    assert "the process that attacked it died" in shown
    code, runs, _ = run(tmp_path / "run", "--jobs", "2", "--resume")
    assert code == 0
    assert {entry["status"] for entry in runs} == {"ok"}
