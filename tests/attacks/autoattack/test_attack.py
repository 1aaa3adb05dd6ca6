"""The official AutoAttack as an attack of ART: records, units, shapes, and what it leaves as it was."""

import itertools
import sys

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.autoattack.backend import VERSIONS
from art_sensreg.attacks.autoattack.rescale import RescaledModel
from tests.attacks.autoattack.models import EPS, ORDER, THEIRS, WEAK, directly, linear, smoothed

pytest.importorskip("pyautoattack")


@pytest.fixture
def victim():
    return smoothed()


@pytest.mark.parametrize("norm", THEIRS)
def test_masks_tell_what_the_classifier_says(victim, digits, norm):
    x, y = digits.x_test[:40], digits.y_test[:40].copy()
    y[:3] = (y[:3] + 1) % 10  # clean mistakes
    attack = OfficialAutoAttack(victim, norm=ORDER[norm], eps=EPS[norm], **WEAK)
    x_adv = attack.generate(x, y)
    assert list(attack.masks) == ["clean", *attack.stages]
    assert list(attack.seconds) == list(attack.stages)
    masks = list(attack.masks.values())
    assert np.array_equal(masks[0], victim.predict(x).argmax(axis=1) == y)
    assert np.array_equal(masks[-1], victim.predict(x_adv).argmax(axis=1) == y)
    assert np.array_equal(attack.robust, masks[-1])
    assert all((after <= before).all() for before, after in itertools.pairwise(masks))
    moved = (x_adv != x).reshape(40, -1).any(axis=1)
    assert np.array_equal(moved, masks[0] & ~masks[-1])
    size = np.linalg.norm((x_adv.astype(np.float64) - x).reshape(40, -1), ord=ORDER[norm], axis=1)
    assert size.max() <= EPS[norm] + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


class Deaf(PyTorchClassifier):
    """Its predictions are not those of its model."""

    def predict(self, x, batch_size=128, **kwargs):
        return np.tile(np.eye(10, dtype=np.float32)[3], (len(x), 1))


def test_an_image_that_the_classifier_does_not_mistake_does_not_count(victim, digits):
    x, shape = digits.x_test[:5], digits.input_shape
    classifier = Deaf(victim.model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0))
    attack = OfficialAutoAttack(classifier, eps=0.5, **WEAK)
    assert np.array_equal(attack.generate(x, np.full(5, 3)), x)
    assert all(mask.all() for mask in attack.masks.values())


def test_labels_come_in_any_form(victim, digits):
    x = digits.x_test[:12]
    predicted = victim.predict(x).argmax(axis=1)
    made = []
    for y in (None, predicted, predicted.tolist(), np.eye(10)[predicted], predicted[:, None].astype(np.float32)):
        attack = OfficialAutoAttack(victim, eps=0.1, attacks=["apgd-ce"], nb_iter=5)
        made.append(attack.generate(x, y=y))
        assert attack.masks["clean"].all()
    assert all(np.array_equal(made[0], other) for other in made[1:])


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize(("clip", "dtype"), [((0.0, 255.0), np.float32), ((-1.0, 1.0), np.float64)])
def test_the_users_units(victim, digits, clip, dtype, norm):
    """The classifier of [0, 1] behind a standardisation that maps other units to them."""
    low, width = clip[0], clip[1] - clip[0]
    loss, shape = nn.CrossEntropyLoss(), digits.input_shape
    classifier = SensRegClassifier(
        victim.model, loss, shape, 10, clip_values=clip, preprocessing=(low, width), device_type="cpu"
    )
    x, y = (low + width * digits.x_test[:40].astype(np.float64)).astype(dtype), digits.y_test[:40]
    eps = width * EPS[norm]
    attack = OfficialAutoAttack(classifier, norm=norm, eps=eps, **WEAK)
    x_adv = attack.generate(x, y)
    assert x_adv.dtype == dtype
    size = np.linalg.norm((x_adv.astype(np.float64) - x).reshape(40, -1), ord=ORDER[norm], axis=1)
    assert size.max() <= eps  # exactly, with no rounding error
    assert x_adv.min() >= clip[0]
    assert x_adv.max() <= clip[1]
    assert np.array_equal(attack.robust, classifier.predict(x_adv).argmax(axis=1) == y)
    model = RescaledModel(classifier, shape)
    theirs, robust = directly(model, model.rescale(x), y, norm=norm, eps=EPS[norm], **WEAK)
    assert np.array_equal(attack.robust, robust)
    np.testing.assert_allclose(x_adv, low + width * theirs, atol=1e-5 * width)


def test_preprocessing_is_seen(victim, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    classifier = SensRegClassifier(
        victim.model,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        clip_values=(0.0, 1.0),
        preprocessing_defences=[FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=3)],
        device_type="cpu",
    )
    attack = OfficialAutoAttack(classifier, eps=0.2, attacks=("apgd-ce",), nb_iter=20)
    x_adv = attack.generate(x, y)
    assert np.array_equal(attack.robust, classifier.predict(x_adv).argmax(axis=1) == y)
    assert attack.robust.mean() < 0.3 < attack.masks["clean"].mean()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.12), ("l1", 0.6)])
def test_images_that_are_vectors(norm, eps):
    rows, pictures = linear((64,), 4), linear((1, 8, 8), 4)
    x = np.random.default_rng(0).random((20, 64), dtype=np.float32)
    flat = OfficialAutoAttack(rows, norm=norm, eps=eps, **WEAK)
    x_adv = flat.generate(x)
    same = OfficialAutoAttack(pictures, norm=norm, eps=eps, **WEAK).generate(x.reshape(20, 1, 8, 8))
    assert x_adv.shape == x.shape
    assert np.array_equal(x_adv, same.reshape(20, 64))
    assert 0 < flat.robust.sum() < 20


@pytest.mark.parametrize("shape", [(13,), (4, 6), (1, 12, 12), (2, 3, 4)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_images_that_square_cannot_tile(shape, norm):
    classifier = linear(shape, 3)
    x = np.random.default_rng(0).random((8, *shape), dtype=np.float32)
    attack = OfficialAutoAttack(classifier, norm=norm, eps=2.0, attacks=["square"], nb_queries=60)
    x_adv = attack.generate(x)
    assert x_adv.shape == x.shape
    assert not attack.robust.all()


class Noisy(nn.Module):
    def __init__(self, model, std):
        super().__init__()
        self.model, self.std = model, std

    def forward(self, x):
        return self.model(x + self.std * torch.randn_like(x))


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("version", ["standard", "plus"])
def test_one_image_and_batches_of_one(victim, digits, norm, version):
    for n, batch_size in ((1, 250), (3, 1)):
        x, y = digits.x_test[:n], digits.y_test[:n]
        settings = {"version": version, "batch_size": batch_size, "nb_iter": 3, "nb_queries": 3}
        attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm] / 3, **settings)
        x_adv = attack.generate(x, y)
        assert x_adv.shape == x.shape
        assert attack.robust.shape == (n,)


def test_no_image_is_classified_correctly(victim, digits):
    x, y = digits.x_test[:6], (victim.predict(digits.x_test[:6]).argmax(axis=1) + 1) % 10
    attack = OfficialAutoAttack(victim, eps=0.1)
    assert np.array_equal(attack.generate(x, y), x)
    assert not any(mask.any() for mask in attack.masks.values())


def test_all_are_broken_early(victim, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    attack = OfficialAutoAttack(victim, eps=0.6)
    x_adv = attack.generate(x, y)
    assert not attack.masks["apgd-ce"].any()
    assert not (victim.predict(x_adv).argmax(axis=1) == y).any()
    assert list(attack.masks) == ["clean", *VERSIONS["standard"]]


def test_binary_classifiers_with_one_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    classifier = PyTorchClassifier(
        model, nn.BCEWithLogitsLoss(), (1, 8, 8), 2, clip_values=(0.0, 1.0), device_type="cpu"
    )
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    y = (classifier.predict(x)[:, 0] > 0).astype(int)
    attack = OfficialAutoAttack(classifier, eps=0.02, attacks=("apgd-ce", "square"), **WEAK)
    x_adv = attack.generate(x, y)
    assert np.array_equal(attack.robust, (classifier.predict(x_adv)[:, 0] > 0) == y)
    assert 0 < attack.robust.sum() < 20


def test_model_generators_and_tracing_are_left_as_they_were(victim, digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    model.train()
    model[3].eval()
    model[1].weight.requires_grad_(False)
    model[4].weight.grad = torch.full_like(model[4].weight, 7.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def tracing(frame, event, arg):
        return None

    former, numbers = sys.gettrace(), (torch.get_rng_state(), np.random.get_state()[1].copy())
    sys.settrace(tracing)
    try:
        OfficialAutoAttack(classifier, eps=0.05, version="plus", **WEAK).generate(
            digits.x_test[:12], digits.y_test[:12]
        )
        after = sys.gettrace()
    finally:
        sys.settrace(former)
    assert after is tracing
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert np.array_equal(np.random.get_state()[1], numbers[1])
    assert [module.training for module in model.modules()] == [True, True, True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    gradients = [p.grad for p in model.parameters()]
    assert [g is None for g in gradients] == [True, True, True, True, False, True]
    assert (gradients[4] == 7).all()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_same_seed_same_images(victim, digits):
    x, y = digits.x_test[:10], digits.y_test[:10]

    def made(seed):
        torch.rand(1)
        return OfficialAutoAttack(victim, eps=0.15, attacks=("apgd-ce",), nb_iter=5, seed=seed).generate(x, y)

    assert np.array_equal(made(4), made(4))
    assert not np.array_equal(made(4), made(5))


def test_random_models_are_reproducible(victim, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    noisy = PyTorchClassifier(
        Noisy(victim.model, 0.1),
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    made = []
    for _ in range(2):
        torch.rand(1)
        attack = OfficialAutoAttack(noisy, eps=0.12, version="rand", nb_iter=5, eot_iter=2)
        made.append((attack.generate(x, y), attack.robust))
    assert np.array_equal(made[0][0], made[1][0])
    assert np.array_equal(made[0][1], made[1][1])
    assert not any("randomized" in text for text in attack.warnings)
