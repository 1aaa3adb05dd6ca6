"""Memory that labels of many classes take while training."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from torch import nn

from art_sensreg import SensRegClassifier, SensRegTrainer, TrainingConfig


def gathered(logits, y):
    """Takes int64 indices and nothing else."""
    return -torch.log_softmax(logits, 1).gather(1, y[:, None]).mean()


def peak(work):
    """Peak of what numpy and Python allocate, and of the memory of the process, beyond what there was before."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def field(name):
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    try:
        reset.write_text("5")
    except OSError:
        pytest.skip("the peak of this process's memory cannot be measured here")
    before = field("VmRSS")
    tracemalloc.start()
    work()
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return allocated, field("VmHWM") - before


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MultiMarginLoss(), gathered], ids=["ce", "margin", "own"])
def test_many_classes_cost_no_more_than_the_logits_of_a_batch(loss):
    classes, n, batch = 100_000, 2000, 8
    x, y = np.random.default_rng(0).random((n, 4), dtype=np.float32), np.arange(n) * 49
    torch.manual_seed(0)
    net = nn.Linear(4, classes)
    optimizer = torch.optim.SGD([net.bias], 0.1)
    classifier = SensRegClassifier(net, loss, (4,), classes, optimizer=optimizer, device_type="cpu")

    def work():
        trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=batch, callbacks=[Few()]))
        trainer.fit(x, y, validation_data=(x[:16], y[:16]), nb_epochs=1, verbose=False)
        generator = NumpyDataGenerator(x[:16], y[:16], batch_size=batch)
        trainer.fit_generator(generator, nb_epochs=1, verbose=False)

    allocated, resident = peak(work)
    logits = 4 * batch * classes
    rows = 4 * n * classes
    assert allocated < rows / 20
    assert resident < 20 * logits < rows / 10


class Few:
    """Ends a run after two steps."""

    def on_step(self, state):
        state.stop = state.step == 2


def test_probabilities_for_a_loss_that_needs_them_are_made_for_a_batch_at_a_time():
    classes, n, batch = 20_000, 2000, 8
    x, y = np.random.default_rng(0).random((n, 4), dtype=np.float32), np.arange(n)
    classifier = SensRegClassifier(
        net := nn.Linear(4, classes), nn.MSELoss(), (4,), classes, optimizer=torch.optim.SGD(net.parameters(), 0.1),
        device_type="cpu",
    )  # fmt: skip

    def work():
        trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=batch, callbacks=[Few()]))
        trainer.fit(x, y, validation_data=(x[:16], y[:16]), nb_epochs=1, verbose=False)

    allocated, resident = peak(work)
    assert allocated < n * classes * 4 / 20
    assert resident < n * classes * 4 / 4
