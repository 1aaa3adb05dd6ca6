"""Optimizers whose step evaluates the loss a second time: sharpness-aware minimisation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import Arm, StopAfter, X, Y, batches_of, classifier_of, close, small_model


class SAM(torch.optim.Optimizer):
    """Foret et al. 2021 (arXiv 2010.01412), with the interface of the common implementations."""

    def __init__(self, params, base, rho=0.1, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    def _parameters(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        norm = torch.stack([p.grad.norm() for p in self._parameters()]).norm()
        for p in self._parameters():
            self.state[p]["old"] = p.clone()
            p.add_(p.grad, alpha=self.param_groups[0]["rho"] / (norm.item() + 1e-12))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for p in self._parameters():
            p.copy_(self.state[p]["old"])
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure=None):
        assert closure is not None, "SAM needs a closure"
        self.first_step(zero_grad=True)
        closure()
        self.second_step()


def sam(model):
    return SAM(model.parameters(), torch.optim.SGD, lr=0.2, momentum=0.9)


def by_hand(model, epochs, batch_size, clip=None):
    optimizer = sam(model)
    for rows in batches_of(0, epochs, batch_size):
        x, y = torch.from_numpy(X)[rows], torch.from_numpy(Y)[rows]

        def gradient(x=x, y=y):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)

        gradient()
        optimizer.first_step()
        gradient()
        optimizer.second_step()
    return [p.detach().clone() for p in model.parameters()]


def fit(model, penalties=(), optimizer=None, epochs=3, folder=None, resume=False, **config):
    trainer = SensRegTrainer(
        classifier_of(model, sam(model) if optimizer is None else optimizer),
        list(penalties),
        TrainingConfig(**{"seed": 0, "batch_size": 8, **config, "callbacks": [Arm(), *config.get("callbacks", ())]}),
    )
    trainer.fit(X, Y, nb_epochs=epochs, checkpoint_dir=folder, resume=resume, verbose=False)
    return trainer


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_method_by_hand(clip, accumulate):
    trainer = fit(small_model(), max_grad_norm=clip, batch_size=8 // accumulate, accumulate=accumulate)
    assert close(weights_of(trainer.classifier), by_hand(small_model(), 3, 8, clip))


def test_both_passes_see_the_same_noise_masks_and_statistics():
    passes = []

    class Look(nn.Module):
        step = 0

        def forward(self, x):
            if self.step:
                passes.append((x == 0).clone())
            return x

    with_rho_zero, plain = (
        small_model(nn.Dropout(), Look(), nn.BatchNorm1d(8)),
        small_model(nn.Dropout(), nn.Identity(), nn.BatchNorm1d(8)),
    )
    penalties = [SensitivityPenalty(), JacobianPenalty()]
    optimizer = SAM(with_rho_zero.parameters(), torch.optim.SGD, rho=0.0, lr=0.2)
    fit(with_rho_zero, penalties, optimizer)
    fit(plain, penalties, torch.optim.SGD(plain.parameters(), lr=0.2))
    assert all(torch.equal(a, b) for a, b in zip(passes[::2], passes[1::2], strict=True))
    # At rho 0 the second pass repeats the first: weights and running statistics of plain training.
    states = zip(with_rho_zero.state_dict().values(), plain.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in states)


def test_a_run_resumes_with_the_momentum_of_the_optimizer_inside(tmp_path):
    whole = fit(small_model())
    fit(small_model(), folder=tmp_path, callbacks=[StopAfter(4)])
    resumed = fit(small_model(), folder=tmp_path, resume=True)
    assert same_weights(weights_of(whole.classifier), weights_of(resumed.classifier))
    optimizer = resumed.classifier.optimizer
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups


def test_a_second_pass_that_is_not_finite_leaves_no_trace():
    calls = []

    def size(model, x, y):
        calls.append(1)
        return model(x).pow(2).mean() * (float("nan") if len(calls) == 4 else 1.0)

    states = []

    class Record(Callback):
        def on_step(self, state):
            states.append([value.clone() for value in state.model.state_dict().values()])

    trainer = fit(small_model(nn.BatchNorm1d(8)), [size], on_nonfinite="skip", callbacks=[Record()])
    assert trainer.history[0]["skipped"] == 1
    assert same_weights(states[0], states[1])
    assert not same_weights(states[1], states[2])


class NoClosure(SAM):
    def step(self):
        self.base_optimizer.step()


class Strange(torch.optim.SGD):
    def step(self, quality):
        super().step()


class Silent(torch.optim.SGD):
    def step(self, closure=None):
        assert closure is not None, "this optimizer needs a closure"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: NoClosure(p, torch.optim.SGD, lr=0.1), TypeError, r"`optimizer` .* NoClosure, .* takes no closure"),
        (lambda p: Strange(p, lr=0.1), TypeError, r"`optimizer` .* Strange, whose `step` needs \['quality'\]"),
        (
            lambda p: Silent(p, lr=0.1),
            TypeError,
            r"`optimizer` .* is Silent, .* needs a closure \(this optimizer needs",
        ),
        (torch.optim.LBFGS, TypeError, r"`optimizer` of the classifier is LBFGS"),
    ],
)
def test_what_cannot_be_driven_is_refused_before_training(make, error, message):
    model = small_model(nn.BatchNorm1d(8))
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.raises(error, match=message):
        fit(model, optimizer=make(list(model.parameters())))
    assert same_weights(before, list(model.state_dict().values()))


def test_two_passes_have_no_gradient_scaler():
    with pytest.raises(ValueError, match=r"`precision` is 'float16' and the optimizer SAM evaluates the loss twice"):
        fit(small_model(), precision="float16")
    assert len(fit(small_model(), precision="bfloat16").history) == 3


def test_the_state_of_a_wrapped_optimizer_is_checked_too():
    model = small_model()
    optimizer = SAM(model.parameters(), torch.optim.Adam, lr=0.1)
    fit(model, optimizer=optimizer)
    state = optimizer.base_optimizer.state[model[0].weight]
    state["exp_avg"] = state["exp_avg"][:2]
    with pytest.raises(ValueError, match=r"`optimizer` holds 'exp_avg' of parameter 0 .* of shape \(2, 4\); expected"):
        fit(model, optimizer=optimizer)


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
        config = TrainingConfig(seed=0, batch_size=8, callbacks=[] if after is None else [StopAfter(after)])
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
