"""AWP: against the authors' algorithm with a proxy model, and what must not change because of it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD, TRADES
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.training.numerics.weight_perturbation import perturbed_weights
from tests.training.helpers import PENALTIES, StopAfter, X, Y, batches_of, classifier_of, close, small_model
from tests.training.test_optimizers import sam

GAMMA = 0.1


def fit(model, adversary=None, penalties=(), folder=None, epochs=2, optimizer=None, **config):
    settings = {"seed": 0, "batch_size": 8, "awp_gamma": GAMMA, "on_catastrophic_overfitting": "ignore", **config}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9) if optimizer is None else optimizer
    classifier = classifier_of(model, optimizer)
    trainer = SensRegTrainer(classifier, list(penalties), TrainingConfig(**settings), adversary=adversary)
    trainer.fit(X, Y, nb_epochs=epochs, checkpoint_dir=folder, resume=folder is not None, verbose=False)
    return trainer


def state_of(model):
    return [value.detach().clone() for value in model.state_dict().values()]


def proxy_step(model, loss):
    """The perturbation as the authors compute it: a copy takes a step of gradient ascent, the change is scaled."""
    proxy = copy.deepcopy(model)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-loss(proxy)).backward()
    optimizer.step()
    changes = {}
    for (name, old), new in zip(model.named_parameters(), proxy.parameters(), strict=True):
        change = (new - old).detach()
        if old.ndim > 1:
            changes[name] = old.detach().norm() / (change.norm() + 1e-20) * change
    return changes


def by_hand(model, adversary, epochs):
    """Training in plain torch; the statistics of BatchNorm are those of a pass at the weights themselves."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    probes = Probes(0, torch.device("cpu"))
    bounds = (torch.tensor(0.0), torch.tensor(1.0))
    model.train()
    for step, rows in enumerate(batches_of(0, epochs, 8)):
        x, y = torch.from_numpy(X)[rows], torch.from_numpy(Y)[rows]
        perturbed = adversary.perturb(model, x, y, F.cross_entropy, probes.at(step), bounds)

        def loss(of, x=x, y=y, perturbed=perturbed):
            if isinstance(adversary, PGD) and not isinstance(adversary, TRADES):
                return F.cross_entropy(of(perturbed), y)
            clean, other = of(x), of(perturbed)
            divergence = F.kl_div(F.log_softmax(other, 1), F.softmax(clean, 1), reduction="batchmean")
            return F.cross_entropy(clean, y) + 6.0 * divergence

        changes = proxy_step(model, loss)
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, change in changes.items():
                named[name].add_(GAMMA * change)
        optimizer.zero_grad()
        loss(copied := copy.deepcopy(model)).backward()
        for weight, other in zip(model.parameters(), copied.parameters(), strict=True):
            weight.grad = other.grad
        with torch.no_grad():
            for name, change in changes.items():
                named[name].sub_(GAMMA * change)
            loss(model)
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("adversary", "layers"),
    [
        (PGD(eps=0.1, max_iter=2), ()),
        (PGD(eps=0.1, max_iter=2), (nn.BatchNorm1d(8),)),
        (TRADES(eps=0.1, max_iter=2), ()),
    ],
    ids=["pgd", "pgd and batch norm", "trades"],
)
def test_training_is_that_of_the_authors(adversary, layers):
    ours = small_model(*copy.deepcopy(layers))
    fit(ours, adversary)
    expected = by_hand(small_model(*copy.deepcopy(layers)).train(), adversary, 2)
    assert close(state_of(ours), state_of(expected))
    without = small_model(*copy.deepcopy(layers))
    fit(without, adversary, awp_gamma=0.0)
    assert not close(state_of(ours), state_of(without), atol=1e-3)


def test_weights_move_by_a_share_of_their_norm_and_come_back():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    F.cross_entropy(model(torch.rand(6, 4)), torch.tensor([0, 1] * 3)).backward()
    model[2].weight.grad.zero_()
    before = state_of(model)
    with perturbed_weights(list(model.parameters()), 0.25):
        moved = [now - old for now, old in zip(state_of(model), before, strict=True)]
        size = 0.25 * before[0].norm()
        assert torch.allclose(moved[0], size * F.normalize(model[0].weight.grad.flatten(), dim=0).view(3, 4), atol=1e-6)
        assert not any(change.any() for change in moved[1:])  # of one dimension, or without a gradient
    assert all(map(torch.equal, state_of(model), before))


@pytest.mark.parametrize("adversary", [PGD(eps=0.1, max_iter=2), None], ids=["pgd", "penalties alone"])
def test_micro_batches_and_resumed_runs_are_the_same(tmp_path, adversary):
    penalties = [] if adversary else PENALTIES
    make = lambda: small_model(nn.Dropout(0.3))  # noqa: E731
    whole = fit(make(), adversary, penalties).get_classifier().model
    stopped = fit(make(), adversary, penalties, tmp_path, callbacks=[StopAfter(4)])
    assert stopped.history[-1]["epoch"] == 2
    resumed = fit(make(), adversary, penalties, tmp_path).get_classifier().model
    assert all(map(torch.equal, state_of(whole), state_of(resumed)))
    if adversary:
        one, parts = small_model(), small_model()
        fit(one, adversary)
        fit(parts, adversary, batch_size=4, accumulate=2)
        assert close(state_of(one), state_of(parts))


def test_the_perturbation_rises_with_the_warm_up():
    found = {}
    for steps in (1, 3):
        for gamma in (0.0, GAMMA):
            model = small_model()
            fit(model, PGD(eps=0.1), awp_gamma=gamma, penalty_warmup=1.0, callbacks=[StopAfter(steps)])
            found[steps, gamma] = state_of(model)
    assert all(map(torch.equal, found[1, 0.0], found[1, GAMMA]))
    assert not all(map(torch.equal, found[3, 0.0], found[3, GAMMA]))


def test_a_checkpoint_of_another_gamma_is_refused(tmp_path):
    fit(small_model(), folder=tmp_path / "with", epochs=1)
    with pytest.raises(ValueError, match=r"`awp_gamma` is 0\.1 in the checkpoint"):
        fit(small_model(), folder=tmp_path / "with", awp_gamma=0.0)


class Breaks(nn.Module):
    """A network whose weights, perturbed, give no numbers."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), 0

    def forward(self, x):
        if self.training and self.layer.weight.detach().abs().sum() > 20:
            return self.layer(x) * torch.inf
        return self.layer(x)


def test_a_loss_that_is_not_finite_at_the_perturbed_weights_leaves_the_step_out():
    model = Breaks()
    with torch.no_grad():
        model.layer.weight.copy_(torch.tensor([1.0, -1.0, 1.0])[:, None].expand(3, 4) * 19.9 / 12)
    before = state_of(model)
    trainer = fit(model, epochs=1, awp_gamma=1.0, on_nonfinite="skip", max_skipped=3)
    assert trainer.history[0]["skipped"] == 3
    assert all(map(torch.equal, state_of(model), before))


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match=r"`awp_gamma` is 0\.1 with precision='float16'"):
        TrainingConfig(awp_gamma=0.1, precision="float16")
    model = small_model()
    with pytest.raises(ValueError, match=r"`awp_gamma` is 0\.1 with the optimizer SAM"):
        fit(model, optimizer=sam(model))
