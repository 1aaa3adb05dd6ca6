"""Batches of tensors in memory and in files."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from art_sensreg.training.batches import BatchSizes, TensorBatches
from art_sensreg.training.distributed import Processes
from tests.conftest import same_weights, weights_of
from tests.training.helpers import PENALTIES


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_mapped_from_a_file_trains_the_same(make_classifier, digits, tmp_path, dtype):
    np.save(tmp_path / "x.npy", digits.x_train[:200].astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    results = []
    for x in (mapped, digits.x_train[:200]):
        classifier = make_classifier(penalties=PENALTIES)
        classifier.fit(x, digits.y_train[:200], nb_epochs=2, seed=0)
        results.append(weights_of(classifier))
    assert same_weights(*results)


@pytest.mark.slow
def test_memory_grows_with_the_batch_not_with_the_data(tmp_path):
    script = """
        import sys, resource, warnings
        import numpy as np, torch
        from art_sensreg import SensitivityPenalty, SensRegClassifier
        torch.set_num_threads(1)
        n = int(sys.argv[1])
        x = np.lib.format.open_memmap(sys.argv[2], "w+", "float64", (n, 1, 64, 64))
        x[:] = 0.5
        x = np.load(sys.argv[2], mmap_mode="r")
        layers = [torch.nn.Flatten(), torch.nn.Linear(4096, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)]
        model = torch.nn.Sequential(*layers)
        classifier = SensRegClassifier(model, torch.nn.CrossEntropyLoss(), (1, 64, 64), 2, clip_values=(0.0, 1.0),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1), penalties=[SensitivityPenalty()])
        classifier.fit(x, np.arange(n) % 2, nb_epochs=1)
        # Pages of the file are the system's to take back: what counts is the process's own memory.
        own = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
        print(own[0].split()[1])
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    own = []
    for n in (500, 8000):
        command = [sys.executable, "-c", textwrap.dedent(script), str(n), str(tmp_path / "x.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        own.append(int(done.stdout) / 1024)
    assert own[1] - own[0] < 60  # the data are 246 MB larger


def test_every_example_comes_once_per_epoch():
    data = torch.arange(10.0)[:, None]
    batches = TensorBatches(data, torch.arange(10), BatchSizes(3))

    def rows(seed, first=0):
        return torch.cat([x for x, *_ in batches.epoch(seed, first, Processes())]).flatten()

    assert sorted(rows(0).tolist()) == sorted(rows(1).tolist()) == list(range(10))
    assert not torch.equal(rows(0), rows(1))
    assert torch.equal(rows(0, first=2), rows(0)[6:])

    def sizes(batch_size, **options):
        batches = TensorBatches(data, data, BatchSizes(batch_size, **options))
        found = [len(x) for x, *_ in batches.epoch(0, 0, Processes())]
        assert len(batches) == len(found)
        return found

    assert sizes(3) == [3, 3, 3, 1]
    assert sizes(3, drop_last=True) == [3, 3, 3]
    assert sizes(3, least=2) == [3, 3, 4]
    assert sizes(3, drop_last=True, least=2) == [3, 3, 3]
    assert sizes(100, drop_last=True) == [10]


def test_batch_norm_survives_a_last_batch_of_one_row(make_classifier, digits):
    classifier = make_classifier(norm_layer="batch", penalties=PENALTIES)
    classifier.fit(digits.x_train[:101], digits.y_train[:101], batch_size=50, nb_epochs=1)
    assert len(classifier.history) == 1
