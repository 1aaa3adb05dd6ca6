"""State in plain attributes of models, losses, penalties and data sets, and losses that go by what a hook has kept."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from art_sensreg import SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD, TRADES
from art_sensreg.training import Callback, ValidationAttack
from art_sensreg.training.checkpoint.folder import list_checkpoints
from tests.conftest import same_weights, weights_of
from tests.training.helpers import X, Y, by_hand, classifier_of, close, small_model


class Stop(Callback):
    def __init__(self, after):
        self.after = after

    def on_step(self, state):
        state.stop = state.total_steps == self.after


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
    config = TrainingConfig(seed=0, batch_size=8, callbacks=[] if after is None else [Stop(after)])
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
    assert "changed while the run went on" not in caplog.text


def test_what_checkpoints_do_not_hold_is_said(tmp_path, caplog):
    def make():
        return small_model(), None, [Remembering()]

    trained(make, tmp_path, after=4)
    with caplog.at_level(logging.WARNING):
        trained(make, tmp_path, resume=True)
    said = [record.getMessage() for record in caplog.records if "changed while" in record.getMessage()]
    assert len(said) == 1
    assert "the term of the objective `annealed.values` changed" in said[0]


# --- data sets that change as they are read ---------------------------------------------------------------------------


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


def test_a_data_set_that_is_a_long_list_is_told_by_one_checksum(tmp_path):
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


# --- losses that use what a hook keeps --------------------------------------------------------------------------------


class CentreLoss(nn.Module):
    """Cross-entropy, and the distance of hidden features to the centres of their classes."""

    def __init__(self, model):
        super().__init__()
        self.centres, self.features = nn.Parameter(torch.ones(3, 8)), None
        model[1].register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.features = output

    def forward(self, logits, y):
        return F.cross_entropy(logits, y) + 0.1 * (self.features - self.centres[y]).pow(2).mean()


def with_centres(penalties=(), adversary=None, **settings):
    model = small_model()
    loss = CentreLoss(model)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.3)
    config = TrainingConfig(seed=0, batch_size=8, nb_epochs=2, **settings)
    return SensRegTrainer(classifier_of(model, optimizer, loss), penalties, config, adversary), model, loss, optimizer


def test_a_loss_of_hidden_features_is_trained_as_by_hand():
    _, model, loss, optimizer = with_centres()
    by_hand(model, optimizer, lambda x, y: loss(model(x), y), epochs=2, batch_size=8)
    expected = [p.detach().clone() for p in [*model.parameters(), loss.centres]]
    trainer, model, loss, _ = with_centres(validation_attack=ValidationAttack(eps=0.1))
    trainer.fit(X, Y, (X[:10], Y[:10]), verbose=False)
    assert close([*model.parameters(), loss.centres], expected)
    with torch.no_grad():
        x, y = torch.from_numpy(X[:10]), torch.from_numpy(Y[:10])
        by_batch = 0.8 * loss(model(x[:8]), y[:8]) + 0.2 * loss(model(x[8:]), y[8:])
    assert trainer.history[-1]["val_loss"] == pytest.approx(by_batch.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("penalties", "adversary"), [([SensitivityPenalty()], None), ([], TRADES(eps=0.1))], ids=["noisy", "perturbed"]
)
def test_it_is_refused_where_other_images_pass_too(penalties, adversary):
    trainer = with_centres(penalties, adversary)[0]
    before = weights_of(trainer.classifier)
    with pytest.raises(ValueError, match=r"`loss` of the classifier uses 'features', which each pass of the model"):
        trainer.fit(X, Y, verbose=False)
    assert same_weights(weights_of(trainer.classifier), before)


def test_it_is_refused_in_a_dict_of_hooks_too():
    model, kept = small_model(), {}
    model[1].register_forward_hook(lambda module, inputs, output: kept.update(hidden=output))
    classifier = classifier_of(model, None, lambda z, y: F.cross_entropy(z, y) + kept["hidden"].pow(2).mean())
    SensRegTrainer(classifier, [], TrainingConfig(seed=0), PGD(eps=0.1)).fit(X, Y, nb_epochs=1, verbose=False)
    with pytest.raises(ValueError, match=r"`loss` of the classifier uses 'kept.hidden'"):
        SensRegTrainer(classifier, [SensitivityPenalty()]).fit(X, Y, nb_epochs=1, verbose=False)


# --- optimizers that keep other things than averages of their weights ------------------------------------------------


class Preconditioned(torch.optim.Optimizer):
    """Counts its steps in a tensor of the group, and keeps a list of matrices for each weight."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group.setdefault("step", torch.tensor(0.0)).add_(1)
            for p in group["params"]:
                factors = self.state[p].setdefault("factors", [torch.eye(len(p))])
                gradient = p.grad.reshape(len(p), -1)
                factors[0].addmm_(gradient, gradient.T)
                update = torch.linalg.solve(factors[0], gradient).reshape(p.shape)
                p.sub_(update, alpha=group["lr"] / group["step"].item())


def test_counters_in_groups_and_lists_of_other_shapes_go_on(tmp_path):
    def run(folder=None, resume=False, after=None):
        model = small_model()
        optimizer = Preconditioned(model.parameters())
        config = TrainingConfig(seed=0, batch_size=8, callbacks=[] if after is None else [Stop(after)])
        trainer = SensRegTrainer(classifier_of(model, optimizer), [], config)
        trainer.fit(X, Y, nb_epochs=2, checkpoint_dir=folder, resume=resume, verbose=False)
        steps = optimizer.param_groups[0]["step"].item()
        if not resume and folder is None:
            trainer.fit(X, Y, nb_epochs=1, verbose=False)  # looking at its state moves nothing
            assert optimizer.param_groups[0]["step"].item() == steps + 3
        return weights_of(trainer.classifier) if folder else [steps]

    assert run() == [6]
    whole = run(tmp_path / "whole")
    run(tmp_path / "part", after=2)
    assert same_weights(whole, run(tmp_path / "part", resume=True))
