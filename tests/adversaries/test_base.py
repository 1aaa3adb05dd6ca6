"""What all adversaries must hold."""

import pytest
import torch
from torch import nn

from art_sensreg import adversaries, randomize
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, CarriedAdversary, NuAT
from art_sensreg.adversaries.base import check_adversary
from art_sensreg.attacks import EOT
from tests.adversaries.helpers import ALL, LOSS, draw_batch, small_net


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_perturbations_keep_to_ball_and_range(adversary):
    x, y = draw_batch()
    bounds = (torch.tensor(0.0), torch.tensor(1.0))
    perturbed = adversary.perturb(small_net(), x, y, LOSS, torch.Generator().manual_seed(0), bounds)
    delta = perturbed - x
    size = delta.norm(dim=1) if adversary.ball == "l2" else delta.abs().amax(1)
    assert size.max() <= adversary.radius + 1e-6
    assert size.max() > 0.5 * adversary.eps
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    assert not perturbed.requires_grad


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_perturbations_raise_what_they_maximise(adversary):
    x, y = draw_batch()
    model = small_net()
    perturbed = adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0))
    other = x + (perturbed - x)[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        loss_fn = adversary.get_loss_fn(model, x, y, LOSS)
        assert loss_fn(model(perturbed)) > loss_fn(model(x))
        assert loss_fn(model(perturbed)) > loss_fn(model(other))


@pytest.mark.parametrize("adversary", [*ALL, CarriedAdversary(eps=0.3, eps_step=0.1, norm="l2")], ids=repr)
def test_at_a_share_of_its_size_it_looks_as_far_in_proportion(adversary):
    half, (x, _) = adversary.at_size(0.5), draw_batch()
    for name in ("radius", "step", "start_radius"):
        assert getattr(half, name) == pytest.approx(getattr(adversary, name) / 2)
    assert half.root_mean_square(x) == pytest.approx(adversary.root_mean_square(x) / 2)
    assert half.pair_size(x) == pytest.approx(adversary.pair_size(x) / 2)
    assert type(half) is type(adversary)
    assert adversary.at_size(1.0) == adversary


@pytest.mark.parametrize("adversary", [NFGSM(eps=0.1), PGD(eps=0.5, norm="l2", max_iter=30), PGD(eps=0.1)], ids=repr)
def test_the_root_mean_square_is_that_of_perturbations(adversary):
    x, y = draw_batch(n=500, classes=2)
    perturbed = adversary.perturb(nn.Linear(12, 2), x, y, LOSS, torch.Generator().manual_seed(0))
    found = (perturbed - x).pow(2).mean().sqrt().item()
    assert found == pytest.approx(adversary.root_mean_square(x), rel=0.03)


def test_the_model_is_attacked_in_evaluation_mode_and_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 4)).train()
    x, y = draw_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = [adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0)) for adversary in ALL]
    again = [adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0)) for adversary in ALL]
    assert all(map(torch.equal, first, again))  # dropout was off
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(eps=0.0), "`eps` is 0.0"),
        (lambda: PGD(eps=0.1, max_iter=0), "`max_iter` is 0"),
        (lambda: PGD(eps=0.1, norm="l1"), "`norm` is 'l1'"),
        (lambda: PGD(eps=0.1, clean_fraction=1.0), "`clean_fraction` is 1.0"),
        (lambda: PGD(eps=0.1, pair="both"), "`pair` is 'both'"),
        (lambda: FGSMRS(eps=0.1, eps_step=-1.0), "`eps_step` is -1.0"),
        (lambda: NFGSM(eps=0.1, noise=-1.0), "`noise` is -1.0"),
        (lambda: NuAT(eps=0.1, noise=-1.0), "`noise` is -1.0"),
        (lambda: NuAT(eps=0.1, clean_fraction=0.5), "`clean_fraction` is 0.5"),
        (lambda: TRADES(eps=0.1, beta=0.0), "`beta` is 0.0"),
        (lambda: TRADES(eps=0.1, clean_fraction=0.5), "`clean_fraction` is 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("adversary", ALL, ids=repr)
def test_repr_is_the_call(adversary):
    assert eval(repr(adversary), vars(adversaries)) == adversary


def test_what_is_no_adversary_is_refused():
    assert check_adversary(None) is None
    assert check_adversary(ALL[0]) is ALL[0]
    with pytest.raises(TypeError, match="`adversary` is 'pgd'; expected None, or an Adversary"):
        check_adversary("pgd")


def test_models_that_average_are_attacked_by_single_draws_in_training():
    x, y = draw_batch()
    model = EOT(randomize(small_net(), kind="rse").eval(), samples=16).eval()
    rows = []
    model.model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    PGD(eps=0.1, max_iter=3).perturb(model, x, y, LOSS)
    assert rows == [32, 32, 32]
