"""What needs a GPU, as declared; the program on the emulated device."""

import os
import subprocess
import sys

import pytest

from art_sensreg.benchmark.studies.experiments.gpu_named import gpu_cifar10, gpu_mnist
from art_sensreg.benchmark.studies.experiments.named import MNIST
from tests.paths import ROOT


def test_mnist_is_attacked_on_all_test_images():
    found = gpu_mnist(MNIST)
    assert {row.name for row in found.rows} == {row.name for row in MNIST.rows}
    assert {row.points for row in found.rows} == {10000}
    assert found.request.device == "cuda"
    assert found.out.as_posix() == "docs/results/gpu-mnist"


def test_cifar10_is_trained_as_declared():
    found = gpu_cifar10()
    assert found.request.model == "preact-resnet18"
    assert found.request.optimization.precision == "bfloat16"
    assert found.request.optimization.weight_average == 0.999
    assert {row.trains for row in found.rows} == {"carried", "carried+sr+jr", "sr+jr", "n-fgsm", "fgsm-pgi", "at"}
    assert {row.settings["epochs"] for row in found.rows} == {15, 30}
    assert {row.points for row in found.rows} == {1000}
    assert all(row.options["max_iter"] == 10 for row in found.rows if row.trains == "at")


@pytest.mark.slow
def test_the_program_runs_on_the_emulated_device(tmp_path, data_dir):
    command = [
        sys.executable, str(ROOT / "benchmarks" / "experiment.py"), "gpu-mnist", "--emulated", "--tiny",
        "--out", str(tmp_path), "--only", "sr+jr", "--seeds", "0", "--kinds", "train,noise,attack",
        "--data-dir", str(data_dir),
    ]  # fmt: skip
    where = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sr+jr seed 0: autoattack linf 0.3" in done.stdout
    assert '"device": "cuda"' in (tmp_path / "results.json").read_text().replace("emu", "cuda")
