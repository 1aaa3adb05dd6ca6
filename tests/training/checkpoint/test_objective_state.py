"""State outside the model: losses and penalties that learn, and optimizers that hold a part of the weights."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import JacobianPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD
from art_sensreg.objectives import Objective
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from tests.conftest import same_weights, weights_of
from tests.training.helpers import StopAfter, X, Y, by_hand, classifier_of, close, small_model


class Tempered(nn.Module):
    """Cross-entropy with a learnable temperature, and a buffer that every step moves (and replaces)."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, logits, y):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return F.cross_entropy((logits - self.mean) * self.scale, y)


class Centres(nn.Module):
    """A penalty that is a module: the distance of the logits to learnable centres."""

    weight, name = 0.3, "centres"

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-1, 1, 9).reshape(3, 3))

    def forward(self, model, x, y):
        classes = y if y.ndim == 1 else y.argmax(1)
        return (model(x) - self.centres[classes]).pow(2).mean()


class Moving:
    """A penalty that is no module and keeps a tensor and a count."""

    weight, name = 0.2, "moving"

    def __init__(self):
        self.mean, self.count = torch.zeros(3), 0

    def __call__(self, model, x, y):
        logits = model(x)
        self.mean, self.count = 0.5 * self.mean + 0.5 * logits.detach().mean(0), self.count + 1
        return (logits - self.mean).pow(2).mean() / self.count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def exact_jacobian(model, x):
    """`1/2 ||J||_F^2`, mean over the rows."""
    x = x.clone().requires_grad_(True)
    z = model(x)
    rows = [torch.autograd.grad(z[:, c].sum(), x, create_graph=True)[0].pow(2).sum(1) for c in range(z.shape[1])]
    return 0.5 * torch.stack(rows).sum(0).mean()


def made():
    model, loss, centres = small_model(), Tempered(), Centres()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters(), *centres.parameters()], lr=0.3, momentum=0.9)
    return model, loss, centres, optimizer


def test_a_loss_and_a_penalty_learn_beside_an_exact_jacobian():
    model, loss, centres, optimizer = made()
    everything = [*model.parameters(), *loss.parameters(), *centres.parameters()]

    def objective(x, y):
        return loss(model(x), y) + 0.1 * exact_jacobian(model, x) + 0.3 * centres(model, x, y)

    by_hand(model, optimizer, objective, epochs=2, batch_size=8, clip=(everything, 0.5))
    expected = [p.detach().clone() for p in [*everything, loss.mean]]

    model, loss, centres, optimizer = made()
    penalties = [JacobianPenalty(weight=0.1, estimator="exact"), centres]
    trainer = SensRegTrainer(
        classifier_of(model, optimizer, loss), penalties, TrainingConfig(seed=0, batch_size=8, max_grad_norm=0.5)
    )
    trainer.fit(X, Y, nb_epochs=2, verbose=False)
    assert close([*model.parameters(), *loss.parameters(), *centres.parameters(), loss.mean], expected)


@pytest.mark.parametrize("estimator", ["projection", "finite_difference"])
def test_they_move_under_every_estimator(estimator):
    model, loss, centres, optimizer = made()
    sigma = 0.1 if estimator == "finite_difference" else None
    penalties = [JacobianPenalty(estimator=estimator, sigma=sigma), centres]
    SensRegTrainer(classifier_of(model, optimizer, loss), penalties, TrainingConfig(seed=0)).fit(
        X, Y, nb_epochs=1, verbose=False
    )
    assert loss.scale.item() != 1
    assert not torch.equal(centres.centres, Centres().centres)


def test_what_the_optimizer_does_not_hold_stays():
    model, loss, _, _ = made()
    classifier_of(model, torch.optim.SGD(model.parameters(), lr=0.3), loss).fit(X, Y, nb_epochs=1, seed=0)
    assert loss.scale.item() == 1
    assert loss.scale.grad is None


@pytest.mark.parametrize("after", [2, 4, 5])
def test_a_resumed_run_has_the_same_bits_outside_of_the_model_too(tmp_path, after):
    def run(folder=None, resume=False, callbacks=()):
        model, loss, centres, optimizer = made()
        moving = Moving()
        config = TrainingConfig(seed=0, batch_size=8, callbacks=callbacks)
        trainer = SensRegTrainer(
            classifier_of(model, optimizer, loss), [JacobianPenalty(estimator="exact"), centres, moving], config
        )
        trainer.fit(X, Y, nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
        return [*weights_of(trainer.classifier), loss.scale, loss.mean, centres.centres, moving.mean]

    whole = run()
    run(tmp_path, callbacks=[StopAfter(after)])
    assert same_weights(whole, run(tmp_path, resume=True))


def test_the_best_weights_are_those_of_the_loss_too():
    model, loss, centres, optimizer = made()
    seen = {}

    class Spoil(Callback):
        """After the first epoch everything gets worse."""

        def on_epoch(self, state):
            if state.epoch == 1:
                seen["best"] = [p.detach().clone() for p in [*model.parameters(), loss.scale, loss.mean]]
            for parameter in [*model.parameters(), loss.scale]:
                nn.init.constant_(parameter, 3.0)

    config = TrainingConfig(seed=0, restore_best=True, monitor="val_loss", callbacks=[Spoil()])
    trainer = SensRegTrainer(classifier_of(model, optimizer, loss), [centres], config)
    trainer.fit(X, Y, (X, Y), nb_epochs=3, verbose=False)
    assert same_weights([*model.parameters(), loss.scale, loss.mean], seen["best"])


def test_a_run_resumes_with_the_best_weights_of_the_loss(tmp_path):
    def run(folder=None, resume=False, after=100):
        model, loss, centres, optimizer = made()
        callbacks = [StopAfter(after)]
        config = TrainingConfig(seed=0, batch_size=8, restore_best=True, monitor="val_loss", callbacks=callbacks)
        trainer = SensRegTrainer(classifier_of(model, optimizer, loss), [centres], config)
        trainer.fit(X, Y, (X, Y), nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
        return [*model.parameters(), loss.scale, loss.mean]

    run(tmp_path, after=4)
    assert same_weights(run(tmp_path, resume=True), run())


def test_validation_leaves_a_losss_buffers_alone():
    seen = []
    model, loss, _, optimizer = made()

    class Look(Callback):
        def on_step(self, state):
            seen.append(loss.mean.clone())

    trainer = SensRegTrainer(classifier_of(model, optimizer, loss), [], TrainingConfig(seed=0, callbacks=[Look()]))
    trainer.fit(X, Y, (X, Y), nb_epochs=1, verbose=False)
    assert torch.equal(loss.mean, seen[-1])
    assert loss.training


def test_an_adversary_leaves_a_losss_buffers_alone():
    seen = []

    class Loss(Tempered):
        def forward(self, logits, y):
            seen.append(self.training)
            return super().forward(logits, y)

    model, loss = small_model(), Loss()

    class Start(Callback):
        def on_start(self, state):
            assert not loss.mean.any()  # what was tried before left nothing
            seen.clear()

    config = TrainingConfig(seed=0, on_catastrophic_overfitting="ignore", callbacks=[Start()])
    trainer = SensRegTrainer(classifier_of(model, None, loss), [], config, PGD(eps=0.1, max_iter=3))
    trainer.fit(X, Y, nb_epochs=2, verbose=False)
    assert seen == 2 * [False, False, False, True]  # three steps of the attack, and one of training


def test_where_such_state_is_found():
    model, scale = small_model(), nn.Parameter(torch.ones(()))
    centres, loss = Centres(), Tempered()
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)

    def names(base_loss=None, penalties=()):
        return sorted(ObjectiveState(Objective(penalties, base_loss), model, optimizer).tensors())

    class Holder:
        def __init__(self):
            self.teacher, self.student = loss, model

        def __call__(self, model, x, y):
            return self.teacher(self.student(x), y)

    own = ["mean", "scale"]
    assert names(loss) == ["base.mean", "base.scale", "optimizer.0.6"] or names(loss)[:2] == ["base.mean", "base.scale"]
    assert [n for n in names(loss.forward) if "base" in n] == [f"base.{name}" for name in own]
    assert [n for n in names(partial(lambda f, z, y: f(z, y), loss)) if "base" in n] == [f"base.0.{n}" for n in own]
    assert "base.scale" in names(lambda z, y: F.cross_entropy(z * scale, y))
    assert any(name.startswith("optimizer") for name in names())
    assert [n for n in names(None, [Holder()]) if "Holder" in n] == [f"Holder.teacher.{name}" for name in own]
    assert "centres.centres" in names(None, [centres])
    assert [name for name in names(cyclic) if "base" in name] == ["base.KNOT.1.mean", "base.KNOT.1.scale"]


def cyclic(z, y):
    return KNOT[1](z, y) if KNOT[0] is cyclic else None


KNOT = [cyclic, Tempered()]


# --- an optimizer of the head only ----------------------------------------------------------------------------------


def test_gradients_of_other_weights_neither_count_nor_stay():
    def head_only(model):
        return torch.optim.SGD(model[-1].parameters(), lr=0.5)

    model = small_model()
    by_hand(
        model,
        head_only(model),
        lambda x, y: F.cross_entropy(model(x), y),
        epochs=3,
        batch_size=8,
        clip=(list(model[-1].parameters()), 0.1),
    )
    expected = [p.detach().clone() for p in model.parameters()]
    model = small_model()
    marks = [torch.full_like(p, 7.0) for p in model[0].parameters()]
    for parameter, mark in zip(model[0].parameters(), marks, strict=True):
        parameter.grad = mark
    config = TrainingConfig(seed=0, batch_size=8, max_grad_norm=0.1)
    SensRegTrainer(classifier_of(model, head_only(model)), [], config).fit(X, Y, nb_epochs=3, verbose=False)
    assert close(list(model.parameters()), expected)
    assert all(p.grad is mark for p, mark in zip(model[0].parameters(), marks, strict=True))
    assert all(bool((mark == 7).all()) for mark in marks)


def test_a_penalty_that_is_copied_keeps_its_own():
    model, loss, centres, optimizer = made()
    before = copy.deepcopy(centres)
    SensRegTrainer(classifier_of(model, optimizer, loss), [centres]).fit(X, Y, nb_epochs=1, verbose=False)
    assert not torch.equal(before.centres, centres.centres)
