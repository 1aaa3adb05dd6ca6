"""FGSM-PGI against its equations in plain torch, epoch after epoch."""

import pytest
import torch
from torch.nn import functional as F

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import FGSMPGI
from art_sensreg.adversaries.visits import PerturbationMemory
from art_sensreg.penalties import LogitPairingPenalty
from art_sensreg.utils.rng import derive_seed
from tests.training.helpers import StopAfter, X, Y, batches_of, classifier_of, close, small_model

EPS = 0.2


def fit(model, folder=None, callbacks=()):
    trainer = SensRegTrainer(
        classifier_of(model),
        [LogitPairingPenalty(weight=3.0)],
        TrainingConfig(seed=0, batch_size=8, on_catastrophic_overfitting="ignore", callbacks=callbacks),
        FGSMPGI(eps=EPS),
    )
    trainer.fit(X, Y, nb_epochs=3, checkpoint_dir=folder, resume=folder is not None, verbose=False)
    return [parameter.detach().clone() for parameter in model.parameters()]


def by_hand(model, epochs):
    """The perturbation of the last epoch, a step of eps from it, and the logits of both in the loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    memory = PerturbationMemory(FGSMPGI(eps=EPS), len(x), x[:1], derive_seed(0, "perturbations"))
    kept = memory.read(torch.arange(len(x)))
    assert torch.allclose(kept.abs(), torch.full_like(kept, EPS))  # corners
    for rows in batches_of(0, epochs, 8):
        start = (x[rows] + kept[rows]).clamp(0, 1).requires_grad_()
        before = model(start)
        (slope,) = torch.autograd.grad(F.cross_entropy(before, y[rows]), start, retain_graph=True)
        moved = (start.detach() + EPS * slope.sign() - x[rows]).clamp(-EPS, EPS)
        perturbed = (x[rows] + moved).clamp(0, 1)
        after = model(perturbed)
        loss = F.cross_entropy(after, y[rows]) + 3.0 * F.mse_loss(after, before)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept[rows] = ((perturbed - x[rows]) * (127 / EPS)).round() * (EPS / 127)
    return [parameter.detach() for parameter in model.parameters()]


def test_training_is_that_of_the_paper_and_resumes(tmp_path):
    ours = fit(small_model())
    assert close(ours, by_hand(small_model(), 3))
    stopped = fit(small_model(), tmp_path, [StopAfter(4)])
    assert not all(map(torch.equal, ours, stopped))
    assert all(map(torch.equal, ours, fit(small_model(), tmp_path)))


def test_other_norms_and_free_steps_are_refused():
    with pytest.raises(ValueError, match="`norm` is 'l2'; expected linf"):
        FGSMPGI(eps=0.1, norm="l2")
    with pytest.raises(ValueError, match="`free` is True; expected False"):
        FGSMPGI(eps=0.1, free=True)
