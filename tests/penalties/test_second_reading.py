"""Models and settings on which an earlier version crashed, or said nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm

from art_sensreg import (
    FisherRaoPenalty,
    GradDivTrainer,
    GradientDiversityPenalty,
    JacobianPenalty,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
)
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.inner_ascent import Ascent, inner_ascent
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.randomization import randomize

X = np.random.default_rng(0).random((40, 6), dtype=np.float32)
Y = np.arange(40) % 3


def classifier_of(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), (6,), 3, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(2, 1, dim_feedforward=4, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer(x.view(-1, 3, 2)).flatten(1))


@pytest.mark.parametrize("estimator", ["projection", "exact"])
def test_jacobians_of_a_random_model_with_batch_norm(estimator):
    classifier = classifier_of(randomize(normed(), kind="rse"))
    trainer = SensRegTrainer(
        classifier, [SensitivityPenalty(), JacobianPenalty(estimator=estimator)], TrainingConfig(seed=0)
    )
    trainer.fit(X, Y, batch_size=20, nb_epochs=2, verbose=False)
    assert np.isfinite(trainer.history[-1]["loss"])


def test_separate_passes_measure_what_stacked_ones_do():
    """BatchNorm's statistics of the clean pass, also where the outputs are differentiated by the inputs."""
    values = []
    for stacked in (True, False):
        model = normed().double().train()
        objective = Objective([SensitivityPenalty(), JacobianPenalty(estimator="projection")])
        x, y = torch.from_numpy(X).double(), torch.from_numpy(Y)
        objective.prepare(model, x)
        objective.plan = replace(objective.plan, stacked=stacked)
        terms, _ = objective(model, x, y, Probes(0, x.device).at(0))
        terms["loss"].backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        values.append([*(terms[name].detach() for name in sorted(terms)), *gradients])
    for one, other in zip(*values, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("kind", ["rse", "bayesian", "pni"])
def test_attention_is_differentiated_twice(kind):
    trainer = GradDivTrainer(classifier_of(randomize(Attending(), kind=kind)), config=TrainingConfig(seed=0))
    trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    trainer = SensRegTrainer(classifier_of(Attending()), [JacobianPenalty(estimator="projection")])
    trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    assert np.isfinite(trainer.history[-1]["loss"])


@pytest.mark.parametrize("kind", ["kappa", "mean", "dpp"])
def test_gradient_diversity_in_half_precision(kind):
    config = TrainingConfig(seed=0, precision="bfloat16")
    trainer = GradDivTrainer(classifier_of(randomize(normed(), kind="rse")), kind=kind, config=config)
    trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    assert np.isfinite(trainer.history[-1]["loss"])


@pytest.mark.parametrize("penalty", [FisherRaoPenalty(eps=0.1, eps_step=0.1, max_iter=1), GradientDiversityPenalty()])
def test_nan_is_not_a_perfect_value(penalty):
    model = nn.Linear(6, 3)
    nn.init.constant_(model.weight, float("nan"))
    assert torch.isnan(penalty(model, torch.from_numpy(X), torch.from_numpy(Y)))


def test_a_model_that_works_in_place_leaves_the_batch_to_the_others():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = normed()

        def forward(self, x):
            return self.inner(x.sub_(0.5).div_(0.25))

    seen = []

    def watching(model, x, y):
        seen.append(x.detach().clone())
        return x.sum() * 0

    x = torch.from_numpy(X.copy())
    model = randomize(InPlace(), kind="rse")
    objective = Objective([SensitivityPenalty(), watching])
    objective.prepare(model, x)
    objective(model, x, torch.from_numpy(Y), Probes(0, x.device).at(0))
    assert torch.equal(seen[-1], torch.from_numpy(X))


def test_steps_in_l2_have_their_length_however_small_the_gradient():
    x = torch.zeros(3, 2)
    for factor in (1.0, 1e-20, 1e-30):
        ascent = Ascent(eps=0.5, eps_step=0.25, max_iter=1, norm="l2")
        moved = inner_ascent(nn.Identity(), lambda z, f=factor: f * z.sum(), x, x, ascent)
        assert torch.allclose(moved.norm(dim=1), torch.full((3,), 0.25))


def test_hooked_weights_are_refused_with_their_name():
    model = nn.Sequential(nn.Linear(6, 4), spectral_norm(nn.Linear(4, 3)))
    model(torch.from_numpy(X))
    with pytest.raises(ValueError, match=r"`model` has a layer '1' whose weight is computed by a hook"):
        randomize(model, kind="rse")


def test_data_of_unknown_length_are_refused_where_the_weight_of_the_divergence_needs_it():
    trainer = GradDivTrainer(classifier_of(randomize(normed(), kind="bayesian")))
    with pytest.raises(TypeError, match="The training data are generator, whose number of images is not known"):
        trainer.fit((row for row in X), Y, verbose=False)
