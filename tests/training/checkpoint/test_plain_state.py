"""State in plain attributes of models, losses, penalties and data sets, and losses that go by what a hook has kept."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from art_sensreg import SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints
from tests.conftest import same_weights, weights_of
from tests.training.helpers import StopAfter, X, Y, classifier_of, small_model


class Counting(nn.Module):
    """A model whose scale rises from step to step; a complex constant and activations are no state."""

    def __init__(self):
        super().__init__()
        self.net, self.steps, self.mean = small_model(), 0, torch.zeros(3)
        self.seen, self.maps = None, []
        self.phases = torch.ones(2, dtype=torch.complex64)

    def forward(self, x):
        z = self.net(x)
        self.seen, self.maps = z, [x]
        if self.training:
            self.steps += 1
            self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return (z - self.mean) * (1 + 0.1 * self.steps)


class Rising(nn.Module):
    """A loss whose weight rises from step to step, around a mean that is no buffer."""

    def __init__(self):
        super().__init__()
        self.steps, self.mean = 0, torch.zeros(3)

    def forward(self, logits, y):
        if self.training:
            self.steps += 1
            self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return F.cross_entropy(logits - self.mean, y) * min(1.0, self.steps / 4)


class Annealed:
    """A penalty that is no module."""

    weight, name = 0.2, "annealed"

    def __init__(self):
        self.steps = 0

    def __call__(self, model, x, y):
        self.steps += 1
        return model(x).pow(2).mean() / self.steps


class Remembering(Annealed):
    """One with a list, which checkpoints do not hold."""

    def __init__(self):
        self.steps, self.values = 0, []

    def __call__(self, model, x, y):
        self.values.append(1)
        return super().__call__(model, x, y) * len(self.values)


def trained(make, folder=None, resume=False, after=None):
    model, loss, penalties = make()
    config = TrainingConfig(seed=0, batch_size=8, callbacks=[] if after is None else [StopAfter(after)])
    trainer = SensRegTrainer(classifier_of(model, None, loss), penalties, config)
    trainer.fit(X, Y, nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
    return weights_of(trainer.classifier)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (Counting(), None, []),
        lambda: (small_model(), Rising(), [SensitivityPenalty()]),
        lambda: (small_model(), None, [Annealed()]),
    ],
    ids=["model", "loss", "penalty"],
)
@pytest.mark.parametrize("after", [2, 5])
def test_counters_and_running_values_go_on(tmp_path, caplog, make, after):
    trained(make, tmp_path, after=after)
    assert same_weights(trained(make), trained(make, tmp_path, resume=True))
    assert "changed during the run" not in caplog.text


def test_what_checkpoints_do_not_hold_is_said(tmp_path, caplog):
    def make():
        return small_model(), None, [Remembering()]

    trained(make, tmp_path, after=4)
    with caplog.at_level(logging.WARNING):
        trained(make, tmp_path, resume=True)
    said = [record.getMessage() for record in caplog.records if "changed during" in record.getMessage()]
    assert len(said) == 1
    assert "the term of the objective `annealed.values` changed" in said[0]


class Caching(Dataset):
    def __init__(self):
        self.reads, self.cache = 0, {}

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.reads += 1
        return self.cache.setdefault(index, (X[index], Y[index]))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_data_set_that_counts_and_caches_is_the_same_in_the_same_process(tmp_path, held_out):
    def run(data, folder=None, resume=False, callbacks=()):
        config = TrainingConfig(seed=0, batch_size=8, callbacks=callbacks)
        trainer = SensRegTrainer(classifier_of(small_model()), [], config)
        options = {"nb_epochs": 4, "checkpoint_dir": folder, "resume": resume, "verbose": False}
        loader = DataLoader(data, batch_size=8, shuffle=True)
        if held_out:
            trainer.fit(X, Y, validation_data=loader, **options)
        else:
            trainer.fit_generator(loader, **options)
        return weights_of(trainer.classifier)

    class Interrupt(Callback):
        def on_step(self, state):
            if state.total_steps == 7:
                raise KeyboardInterrupt

    data = Caching()
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, callbacks=[Interrupt()])
    assert same_weights(run(Caching()), run(data, tmp_path, resume=True))


def test_a_data_set_that_is_a_long_list_is_identified_by_one_checksum(tmp_path):
    rows = [(torch.full((4,), i / 3000), i % 3) for i in range(3000)]

    def run(data, resume):
        SensRegTrainer(classifier_of(small_model()), [], TrainingConfig(seed=0)).fit_generator(
            DataLoader(data, batch_size=500), nb_epochs=1, checkpoint_dir=tmp_path, resume=resume, verbose=False
        )

    run(rows, resume=False)
    assert list_checkpoints(tmp_path)[0].stat().st_size < 60_000
    rows[2900] = (rows[2900][0] + 1e-6, rows[2900][1])
    with pytest.raises(ValueError, match=r"training data's `dataset` is list of 3000, checksum \w+ in the checkpoint"):
        run(rows, resume=True)
