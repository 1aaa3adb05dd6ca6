"""Training with adversaries, and the guard against catastrophic overfitting."""

import logging

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD
from art_sensreg.training.held_out import HeldOutTensors
from art_sensreg.training.overfitting import OverfittingGuard, Watched, watched_attacks
from art_sensreg.training.validation import ValidationAttack
from tests.adversaries.test_adversaries import ALL, LOSS, SR_JR, small_net


def trainer_of(adversary, penalties=(), seed=0, **config):
    model = small_net(seed=seed)
    classifier = PyTorchClassifier(
        model,
        LOSS,
        (12,),
        4,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    return SensRegTrainer(classifier, list(penalties), TrainingConfig(seed=0, **config), adversary=adversary)


def prototypes(n=400):
    """Four classes around four corners: learnable, with room for robustness."""
    generator = np.random.default_rng(0)
    y = np.arange(n) % 4
    corners = np.repeat(np.eye(4), 3, axis=1)[:, :12] * 0.6 + 0.2
    return np.clip(corners[y] + 0.08 * generator.standard_normal((n, 12)), 0, 1).astype(np.float32), y


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_training_wins_robustness(adversary):
    x, y = prototypes()
    attack = ValidationAttack(eps=adversary.eps * 2, norm=adversary.ball)
    found = []
    for chosen in (None, adversary):
        trainer = trainer_of(chosen, validation_attack=attack)
        trainer.fit(x, y, validation_data=(x, y), nb_epochs=15, batch_size=32, verbose=False)
        found.append(trainer.history[-1])
    assert found[1]["val_accuracy"] > 0.95
    assert found[1]["val_robust_accuracy"] >= found[0]["val_robust_accuracy"]
    assert ("pgd_accuracy" in found[1]) == (adversary.steps == 1)
    assert found[1]["adversarial"] >= 0


def test_a_resumed_run_is_the_same(tmp_path):
    x, y = prototypes(100)
    weights = []
    for stops in (None, 2):
        trainer = trainer_of(FGSMRS(eps=0.1, pair="adversarial"), SR_JR)
        if stops:
            trainer.fit(x, y, nb_epochs=stops, batch_size=32, checkpoint_dir=tmp_path, verbose=False)
            trainer = trainer_of(FGSMRS(eps=0.1, pair="adversarial"), SR_JR, seed=5)
            trainer.fit(x, y, nb_epochs=4, batch_size=32, checkpoint_dir=tmp_path, resume=True, verbose=False)
        else:
            trainer.fit(x, y, nb_epochs=4, batch_size=32, verbose=False)
        assert len(trainer.history) == 4
        weights.append(torch.cat([p.detach().flatten() for p in trainer.get_classifier().model.parameters()]))
    assert torch.equal(*weights)
    trainer = trainer_of(FGSMRS(eps=0.2, pair="adversarial"), SR_JR)
    with pytest.raises(ValueError, match="adversary"):
        trainer.fit(x, y, nb_epochs=5, batch_size=32, checkpoint_dir=tmp_path, resume=True, verbose=False)


def test_wrong_adversaries_are_refused():
    with pytest.raises(TypeError, match="`adversary` is 'pgd'; expected None, or an Adversary"):
        trainer_of("pgd")
    x, y = prototypes(40)
    with pytest.raises(ValueError, match="`compile` is True"):
        trainer_of(PGD(eps=0.1), compile=True).fit(x, y, nb_epochs=1, verbose=False)


def test_a_loader(tmp_path):
    x, y = prototypes(100)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    trainer = trainer_of(NFGSM(eps=0.1))
    trainer.fit_generator(torch.utils.data.DataLoader(data, batch_size=25, shuffle=True), nb_epochs=2, verbose=False)
    assert trainer.history[-1]["pgd_accuracy"] >= 0


# --- catastrophic overfitting -----------------------------------------------------------------------------------------


class Collapsing(FGSMRS):
    """Training that is fine for three epochs, and then forgets what it knew about PGD: it trains on clean images."""

    def perturb(self, model, x, y, base_loss, generator=None, clip_values=None):
        if COLLAPSE[0]:
            return 1 - x  # far from anything: the classes of the corners change places
        return super().perturb(model, x, y, base_loss, generator, clip_values)


COLLAPSE = [False]


class CollapseAfter:
    def on_start(self, state):
        COLLAPSE[0] = False

    def on_epoch(self, state):
        COLLAPSE[0] = state.epoch >= 5


@pytest.mark.parametrize("action", ["report", "stop", "roll_back", "ignore"])
def test_collapse_in_training(action, caplog):
    x, y = prototypes()
    trainer = trainer_of(Collapsing(eps=0.1), callbacks=[CollapseAfter()], on_catastrophic_overfitting=action)
    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        trainer.fit(x, (y + 0) % 4, validation_data=(x, y), nb_epochs=12, batch_size=16, verbose=False)
    history = trainer.history
    reported = [record for record in caplog.records if "Catastrophic overfitting in epoch" in record.getMessage()]
    right = (trainer.get_classifier().predict(x).argmax(1) == y).mean()
    if action == "ignore":
        assert "pgd_accuracy" not in history[0]
        assert not reported
        return
    assert len(reported) == 1
    flags = [record["catastrophic_overfitting"] for record in history]
    assert sum(flags) == 1
    assert flags.index(1.0) >= 5
    assert max(record["pgd_accuracy"] for record in history[:5]) > 0.9
    assert (len(history) == 12) == (action == "report")
    assert (right > 0.95) == (action == "roll_back")


def test_what_counts_as_a_collapse(caplog):
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))

    def flagged(values, singles=None, action="report"):
        guard = OverfittingGuard(action, watched)
        pairs = zip(values, singles or values, strict=True)
        records = [{"epoch": i, "pgd_accuracy": pgd, "fgsm_accuracy": fgsm} for i, (pgd, fgsm) in enumerate(pairs)]
        stops = [guard.stops_after(record, nn.Linear(1, 1)) for record in records]
        return [i for i, record in enumerate(records) if record["catastrophic_overfitting"]], stops

    assert flagged([0.1, 0.3, 0.5, 0.45, 0.5]) == ([], [False] * 5)
    assert flagged([0.1, 0.05, 0.02]) == ([], [False] * 3)  # nothing was won yet
    assert flagged([0.4, 0.02, 0.0, 0.01])[0] == [1]  # reported once
    assert flagged([0.4, 0.02, 0.5, 0.0])[0] == [1, 3]  # it recovered, and collapsed again
    assert flagged([0.4, 0.02, 0.0], action="stop")[1] == [False, True, True]
    assert flagged([0.05, 0.04], [0.2, 0.9])[0] == [1]  # never robust to PGD, all the more to one step
    assert flagged([0.4, 0.45], [0.6, 0.7])[0] == []
    assert flagged([0.4, 0.01, 0.39, 0.01], [0.5, 0.8, 0.5, 0.8])[0] == [1, 3]  # it recovered nearly


def test_a_collapse_in_the_first_epoch_has_nothing_to_roll_back_to(caplog):
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))
    guard = OverfittingGuard("roll_back", watched)
    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        assert guard.stops_after({"epoch": 1, "pgd_accuracy": 0.02, "fgsm_accuracy": 0.9}, nn.Linear(1, 1))
    assert not guard.restores
    assert "the weights as they are" in caplog.text


@pytest.mark.parametrize("loader", [False, True])
def test_all_classes_of_sorted_validation_data_are_watched(loader):
    from art_sensreg.art_bridge.fit import _guard
    from art_sensreg.training.batches import TensorBatches
    from art_sensreg.training.held_out import HeldOutLoader

    x, y = torch.zeros(1000, 2), torch.arange(10).repeat_interleave(100)
    batches = TensorBatches(x, y, batch_size=100)
    parts = list(zip(x.split(64), y.split(64), strict=True))
    validation = HeldOutLoader(lambda: iter(parts), len(parts)) if loader else HeldOutTensors(x, y)
    guard = _guard(FGSMRS(eps=0.1), TrainingConfig(), batches, validation)
    seen, labels = guard.watched.data.sample(1000)
    assert labels.unique().tolist() == list(range(10))
    assert len(seen) == 256


def test_the_guards_state_survives_a_checkpoint():
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))
    first, model = OverfittingGuard("roll_back", watched), nn.Linear(1, 1)
    first.stops_after({"epoch": 1, "pgd_accuracy": 0.8, "fgsm_accuracy": 0.8}, model)
    second = OverfittingGuard("roll_back", watched)
    second.load_state_dict(first.state_dict())
    assert second.stops_after({"epoch": 2, "pgd_accuracy": 0.0, "fgsm_accuracy": 0.0}, nn.Linear(1, 1))
    assert second.restores
    assert torch.equal(second.weights["weight"], model.weight)
