"""`sigma` as an array: closed forms of linear networks, units, and everything that a penalty's settings go through."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from art_sensreg.penalties.feature_sigma import FeatureSigma, as_sigma, noise_sizes, smallest_size

SIZES = np.array([0.1, 20.0, 3.0, 0.5])
WEIGHT = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 0.02, 0.0, 0.0], [0.0, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, -1.0]])


def linear(weight=WEIGHT):
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    model.weight.data = weight.double().clone()
    return model


def rows(n=6, d=4, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_closed_form_of_a_linear_network():
    """`sum_j (s_j / s)^2 W_kj^2`, the mean over `k`: with signs as noise and one weight a neuron, without an error."""
    penalty = SensitivityPenalty(sigma=SIZES, noise="rademacher", layers="logits")
    share = (SIZES**2) / (SIZES**2).mean()
    expected = (WEIGHT.double().pow(2).numpy() * share).sum() / 4
    assert penalty(linear(), rows(), generator=generator()).item() == pytest.approx(expected, rel=1e-9)
    absolute = SensitivityPenalty(sigma=SIZES, noise="rademacher", layers="logits", distance="absolute")
    expected = (WEIGHT.double().abs().numpy() * np.sqrt(share)).sum() / 4
    assert absolute(linear(), rows(), generator=generator()).item() == pytest.approx(expected, rel=1e-9)


def test_jacobian_closed_form_within_four_standard_errors():
    """`1/2 sum_j (s_j / s)^2 ||W_j||^2`; of a Gaussian quadratic form the variance is known: `2 tr(M^2)`."""
    weight = torch.randn(3, 4, dtype=torch.float64, generator=generator(5))
    scaled = weight * torch.from_numpy(SIZES / np.sqrt((SIZES**2).mean()))
    gram = scaled.T @ scaled
    n = 4000
    value = JacobianPenalty(sigma=SIZES)(linear(weight), rows(n), generator=generator()).item()
    error = (gram @ gram).trace().mul(2 / n).sqrt().item() / 2
    assert abs(value - gram.trace().item() / 2) < 4 * error
    assert error < 0.05 * value


def test_the_exact_jacobian_of_a_small_network():
    """Tiny noise and many probes: the weighted squared norms of the columns of each layer's Jacobian."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, sizes = rows(1), 1e-4 * SIZES
    share = torch.from_numpy(sizes**2 / (sizes**2).mean())
    jacobian = torch.autograd.functional.jacobian(lambda row: model[:2](row[None])[0], x[0])
    scaled = jacobian * share.sqrt()
    gram = scaled.T @ scaled
    probes = 2000
    value = SensitivityPenalty(sigma=sizes)(model, x.expand(probes, 4), generator=generator()).item() * 5
    error = (gram @ gram).trace().mul(2 / probes).sqrt().item()
    assert abs(value - (jacobian.pow(2) * share).sum().item()) < 4 * error + 1e-3 * value
    assert error < 0.05 * value


@pytest.mark.parametrize("make", [SensitivityPenalty, JacobianPenalty])
@pytest.mark.parametrize("sizes", [np.full(4, 0.3), torch.full((4,), 0.3, dtype=torch.float64), np.array([0.3])])
def test_equal_entries_are_the_one_number(make, sizes):
    model = nn.Sequential(linear(), nn.Tanh(), linear())
    one = make(sigma=0.3)(model, rows(), generator=generator())
    assert make(sigma=sizes)(model, rows(), generator=generator()).item() == pytest.approx(one.item(), rel=1e-12)


def test_another_unit_of_a_feature_changes_no_ratio():
    """Grams instead of kilograms: `s^2` times the penalty is the same, and so is its gradient by every weight."""
    unit = torch.tensor([1000.0, 1.0, 0.01, 1.0], dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    changed = copy.deepcopy(model)
    changed[0].weight.data /= unit
    results = []
    for net, x, sizes in ((model, rows(), SIZES), (changed, rows() * unit, SIZES * unit.numpy())):
        value = SensitivityPenalty(sigma=sizes)(net, x, generator=generator()) * (sizes**2).mean()
        results.append((value, *torch.autograd.grad(value, net[0].bias)))
    torch.testing.assert_close(results[0], results[1])


def test_images_and_broadcasting():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 2, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.rand(4, 3, 2, 2, generator=generator())
    per_channel = np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    values = [
        SensitivityPenalty(sigma=sizes)(model, x, generator=generator()).item()
        for sizes in (per_channel, np.broadcast_to(per_channel, (3, 2, 2)))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_the_noise_is_shared_and_clipped():
    model, x = linear(), rows()
    objective = Objective([SensitivityPenalty(sigma=SIZES, layers="logits"), JacobianPenalty()])
    objective.prepare(model, x)
    terms, _ = objective(model, x, torch.zeros(6, dtype=torch.long), generator())
    assert terms["jacobian"].item() == pytest.approx(2 * terms["sensitivity"].item())  # N = 4 neurons, and 1/2
    assert objective.smallest_sigma == 0.1
    clipped = SensitivityPenalty(sigma=SIZES, layers="logits", clip=True)
    noisy, _ = clipped.branches(model, x, generator(), (x.new_tensor(-1.0), x.new_tensor(1.0)))
    assert noisy[0].abs().max() <= 1


def test_settings_are_compared_copied_and_printed():
    penalty = SensitivityPenalty(sigma=SIZES)
    same, other = SensitivityPenalty(sigma=torch.from_numpy(SIZES)), SensitivityPenalty(sigma=SIZES + 1)
    assert penalty == same
    assert hash(penalty) == hash(same)
    assert penalty != other
    assert penalty != SensitivityPenalty()
    assert "sigma=array([0.1, 20.0, 3.0, 0.5])" in repr(penalty)
    for copied in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty)), dataclasses.replace(penalty)):
        assert copied == penalty
        assert np.array_equal(np.asarray(copied.sigma), SIZES)
    mine = SIZES.copy()
    kept = JacobianPenalty(sigma=mine)
    mine[0] = -1.0
    assert np.array_equal(kept.sigma, SIZES)
    large = np.ones((3, 20, 20))
    texts = {repr(FeatureSigma(large)), repr(FeatureSigma(large * 1.0))}
    large[0, 0, 0] += 1e-12
    assert len(texts) == 1
    assert repr(FeatureSigma(large)) not in texts


@pytest.mark.parametrize("make", [SensitivityPenalty, JacobianPenalty])
@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (np.array([0.1, 0.0, 1.0]), ValueError, r"`sigma` is 0.0 at \(1,\); expected a number"),
        (np.array([[0.1], [-2.0]]), ValueError, r"`sigma` is -2.0 at \(1, 0\)"),
        (np.array([np.nan, 1.0]), ValueError, r"`sigma` is nan at \(0,\)"),
        (torch.tensor([1.0, torch.inf]), ValueError, r"`sigma` is inf at \(1,\)"),
        (np.zeros((0,)), ValueError, r"`sigma` is an array of shape \(0,\)"),
        (np.array(["a", "b"]), TypeError, r"`sigma` is an array of <U1"),
        (np.array([1.0, None]), TypeError, r"`sigma` is an array of object"),
        (np.array([True, True]), TypeError, r"`sigma` is an array of bool"),
        (np.array([1j, 1.0]), TypeError, r"`sigma` is an array of complex128"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), TypeError, r"`sigma` is a masked array"),
        (torch.ones(3, requires_grad=True), TypeError, r"`sigma` is a tensor that requires grad"),
        ("0.3", TypeError, r"`sigma` is '0.3'"),
    ],
)
def test_wrong_arrays(make, sigma, error, message):
    with pytest.raises(error, match=message):
        make(sigma=sigma)


def test_a_range_holds_numbers():
    assert SensitivityPenalty(sigma=(0.1, 0.3)).sigma == (0.1, 0.3)
    with pytest.raises(TypeError, match=r"`sigma` is array"):
        SensitivityPenalty(sigma=(SIZES, 2 * SIZES))
    with pytest.raises(
        ValueError, match=r"`sigma` is \[0.1, 0.2, 0.3\]; expected a number, a range \(low, high\), or an"
    ):
        SensitivityPenalty(sigma=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("sizes", [np.ones(3), np.ones((1, 4)), np.ones((4, 1)), np.ones((2, 4))])
def test_the_shape_must_fit_before_a_weight_moves(sizes):
    model = linear()
    with pytest.raises(
        ValueError, match=r"`sigma` has shape \(.*\); expected one that broadcasts to an input's, \(4,\)"
    ):
        JacobianPenalty(sigma=sizes)(model, rows())
    classifier = make_classifier([SensitivityPenalty(sigma=sizes)])
    before = copy.deepcopy(classifier.model.state_dict())
    with pytest.raises(ValueError, match=r"`sigma` has shape"):
        classifier.fit(np.zeros((8, 4), np.float32), np.arange(8) % 2, nb_epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())


def make_classifier(penalties=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), (4,), 2, optimizer=optimizer, penalties=penalties, device_type="cpu"
    )


def test_training_resumes_and_tells_another_array(tmp_path):
    x, y = np.random.default_rng(0).random((40, 4)).astype(np.float32), np.arange(40) % 2
    config = TrainingConfig(seed=0, batch_size=16)

    def train(sizes, epochs, folder, resume=False):
        trainer = SensRegTrainer(make_classifier(), [SensitivityPenalty(sigma=sizes), JacobianPenalty()], config)
        trainer.fit(x, y, nb_epochs=epochs, checkpoint_dir=folder, resume=resume, verbose=False)
        return trainer.get_classifier().model.state_dict()

    whole = train(SIZES, 3, tmp_path / "whole")
    train(SIZES, 1, tmp_path / "parts")
    parts = train(SIZES, 3, tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ValueError, match=r"term of the objective `sensitivity` is .*array"):
        train(SIZES + 1e-6, 4, tmp_path / "parts", resume=True)


def test_a_small_entry_keeps_the_pass_in_float32():
    """Differences that one small feature makes would be rounded away."""
    from art_sensreg.training.numerics.step_module import StepModule

    bounds = torch.tensor(0.0), torch.tensor(1.0)
    for sizes, low in ((np.array([0.01, 1.0, 1.0, 1.0]), None), (np.ones(4), torch.bfloat16)):
        objective = Objective([SensitivityPenalty(sigma=sizes)], clip_values=bounds)
        assert StepModule(nn.Linear(4, 2), objective, "bfloat16").low is low


def test_factor_divisor_and_smallest_size():
    sigma = as_sigma(np.array([1.0, 7.0]))
    factor, divisor = noise_sizes(sigma, torch.zeros(3, 2))
    assert (factor.tolist(), divisor, smallest_size(sigma)) == ([1.0, 7.0], 5.0, 1.0)
    assert noise_sizes(0.3, torch.zeros(3, 2)) == (0.3, 0.3)
    assert smallest_size(as_sigma((0.1, 0.3), ranges=True)) == 0.1
