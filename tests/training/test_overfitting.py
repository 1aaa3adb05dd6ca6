"""The guard against catastrophic overfitting of adversarial training."""

import logging

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import FGSMRS, NFGSM, CarriedAdversary
from art_sensreg.art_bridge.fit import overfitting_guard
from art_sensreg.models import build_model
from art_sensreg.training import TrainingState
from art_sensreg.training.batches import BatchSizes, HeldOutLoader, HeldOutTensors, TensorBatches
from art_sensreg.training.overfitting import OverfittingGuard, Watched, watched_attacks
from tests.adversaries.helpers import prototypes, trainer_of


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

    def flagged(values, singles=None, action="report", chance=0.0):
        guard = OverfittingGuard(action, watched, chance=chance)
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
    assert flagged([0.19, 0.02], [0.3, 0.3], chance=0.19)[0] == []  # from one answer to all images to another
    assert flagged([0.19, 0.02], [0.3, 0.3])[0] == [1]
    assert flagged([0.4, 0.06], [0.4, 0.2], chance=0.19)[0] == [1]
    assert flagged([0.3, 0.06], [0.4, 0.1])[0] == []  # a single step breaks as much
    assert flagged([0.4, 0.06], [0.4, 0.1])[0] == [1]  # from far above chance all the same
    guard, record = OverfittingGuard("stop", watched), {"epoch": 1, "pgd_accuracy": 0.05, "fgsm_accuracy": 0.9}
    assert not guard.stops_after(record, nn.Linear(1, 1), rising=True)  # it has not met the full size yet
    assert not record["catastrophic_overfitting"]
    assert guard.stops_after(record, nn.Linear(1, 1))


def test_a_collapse_in_the_first_epoch_has_nothing_to_roll_back_to(caplog):
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))
    guard = OverfittingGuard("roll_back", watched)
    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        assert guard.stops_after({"epoch": 1, "pgd_accuracy": 0.02, "fgsm_accuracy": 0.9}, nn.Linear(1, 1))
    assert not guard.restores
    assert "the weights as they are" in caplog.text


def test_a_fall_of_the_cosine_predicts_a_collapse_once(caplog):
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))
    guard, model = OverfittingGuard("roll_back", watched, predicts=True), nn.Linear(1, 1)
    state = TrainingState(model, torch.optim.SGD(model.parameters()), epoch=3, step=7)

    def after(*cosines):
        for cosine in cosines:
            guard.note_step(cosine, state)
        record = {"epoch": 3, "pgd_accuracy": 0.5, "fgsm_accuracy": 0.6}
        return guard.stops_after(record, model), record["overfitting_predicted"]

    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        assert after(*[0.02] * 30) == (False, 0.0)  # of an untrained network
        assert after(*[0.7] * 30) == (False, 0.0)
        assert after(0.0, -0.5, 0.0) == (False, 0.0)  # single steps are noise
        assert after(*[0.2] * 50) == (False, 0.0)
        assert not guard.restores
        assert caplog.text == ""
        assert after(*[0.01] * 30) == (True, 1.0)
        assert after(*[0.01] * 30) == (True, 1.0)
    assert caplog.text.count("Catastrophic overfitting is near: in epoch 3, step 7") == 1
    assert guard.restores
    resumed = OverfittingGuard("roll_back", watched, predicts=True)
    resumed.load_state_dict(guard.state_dict())
    assert (resumed.cosine, resumed.alike, resumed.predicted) == (guard.cosine, True, True)
    assert after(*[0.7] * 30) == (False, 0.0)  # it recovered
    resumed.load_state_dict({name: guard.state_dict()[name] for name in ("best", "collapsed", "weights")})  # of before
    assert resumed.cosine is None


@pytest.mark.parametrize("predicts", [True, False])
def test_some_steps_of_each_epoch_are_compared(predicts):
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))
    guard = OverfittingGuard("report", watched, predicts=predicts)
    assert [step for step in range(9) if guard.compares(step)] == ([0, 4, 8] if predicts else [])


def train_on_digits(digits, adversary, seed, penalties=(), **settings):
    settings = {"model": "cnn-small", "norm_layer": "none", "rate": 3e-3, "epochs": 8, **settings}
    torch.manual_seed(seed)
    model = build_model(settings["model"], digits.input_shape, 10, norm_layer=settings["norm_layer"])
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["rate"])
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), digits.input_shape, 10, optimizer=optimizer, clip_values=(0, 1), penalties=[]
    )
    trainer = SensRegTrainer(classifier, list(penalties), TrainingConfig(seed=seed), adversary=adversary)
    data = {"validation_data": (digits.x_test, digits.y_test), "batch_size": 64, "nb_epochs": settings["epochs"]}
    trainer.fit(digits.x_train, digits.y_train, verbose=False, **data)
    return trainer.history


@pytest.mark.slow
def test_a_real_collapse_is_predicted_before_it_is_found_where_there_was_robustness_to_lose(digits, caplog):
    """FGSM without noise, at a large eps and learning rate; who never withstood PGD has no fall to foresee."""
    foreseen = []
    for seed in (0, 1, 2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="art_sensreg"):
            adversary, settings = NFGSM(eps=0.3, noise=0.0), {"rate": 1e-2, "epochs": 12}
            found = train_on_digits(digits, adversary, seed, model="resnet-small", norm_layer="batch", **settings)
        assert any(record["catastrophic_overfitting"] for record in found)
        assert any(record["overfitting_predicted"] for record in found)
        messages = [record.getMessage() for record in caplog.records]
        near, there = (
            next(i for i, text in enumerate(messages) if text.startswith(f"Catastrophic overfitting {words}"))
            for words in ("is near", "in epoch")
        )
        foreseen.append(near < there)
    assert sum(foreseen) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("adversary", "penalised"),
    [
        (NFGSM(eps=0.2, clean_fraction=0.5), False),
        (NFGSM(eps=0.2, clean_fraction=0.5, pair="adversarial"), True),
        (CarriedAdversary(eps=0.2), True),
    ],
    ids=["n-fgsm", "n-fgsm+sr+jr", "carried+sr+jr"],
)
def test_healthy_training_raises_no_alarm(adversary, penalised, seed, digits, caplog):
    penalties = [SensitivityPenalty(weight=0.3), JacobianPenalty(weight=0.03)] if penalised else []
    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        found = train_on_digits(digits, adversary, seed, penalties)
    assert found[-1]["pgd_accuracy"] > 0.25
    assert not any(record["overfitting_predicted"] for record in found)
    assert "Catastrophic overfitting" not in caplog.text


@pytest.mark.parametrize("loader", [False, True])
def test_all_classes_of_sorted_validation_data_are_watched(loader):
    x, y = torch.zeros(1000, 2), torch.arange(10).repeat_interleave(100)
    batches = TensorBatches(x, y, BatchSizes(100))
    parts = list(zip(x.split(64), y.split(64), strict=True))
    validation = HeldOutLoader(lambda: iter(parts), len(parts)) if loader else HeldOutTensors(x, y)
    guard = overfitting_guard(FGSMRS(eps=0.1), TrainingConfig(), batches, validation)
    seen, labels = guard.watched.data.sample(1000)
    assert labels.unique().tolist() == list(range(10))
    assert len(seen) == 256
    assert guard.chance == labels.bincount().max() / 256  # the score of one answer to all


def test_the_guards_state_survives_a_checkpoint():
    watched = Watched(watched_attacks(0.1, "linf"), HeldOutTensors(torch.zeros(1, 1), torch.zeros(1)))
    first, model = OverfittingGuard("roll_back", watched), nn.Linear(1, 1)
    first.stops_after({"epoch": 1, "pgd_accuracy": 0.8, "fgsm_accuracy": 0.8}, model)
    second = OverfittingGuard("roll_back", watched)
    second.load_state_dict(first.state_dict())
    assert second.stops_after({"epoch": 2, "pgd_accuracy": 0.0, "fgsm_accuracy": 0.0}, nn.Linear(1, 1))
    assert second.restores
    assert torch.equal(second.weights["weight"], model.weight)
