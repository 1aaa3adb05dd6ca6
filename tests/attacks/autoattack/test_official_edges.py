"""The official AutoAttack inside ART: few images, what it leaves behind, its warnings, and wrong arguments."""

import logging
import sys

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.autoattack.backend import VERSIONS
from tests.attacks.autoattack.official_helpers import EPS, THEIRS, WEAK, linear, smoothed

pytest.importorskip("pyautoattack")


@pytest.fixture
def victim():
    return smoothed()


class Noisy(nn.Module):
    def __init__(self, model, std):
        super().__init__()
        self.model, self.std = model, std

    def forward(self, x):
        return self.model(x + self.std * torch.randn_like(x))


# --- edges ----------------------------------------------------------------------------------------------------------


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


def test_nothing_is_rightly_classified(victim, digits):
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


# --- nothing is left behind -----------------------------------------------------------------------------------------


def test_surroundings_are_as_before(victim, digits):
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


# --- warnings -------------------------------------------------------------------------------------------------------


def _warnings(model, x, y, **kwargs):
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = OfficialAutoAttack(classifier, eps=0.1, **kwargs)
    attack.generate(x, y)
    return attack.warnings


class Differentiating(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.enable_grad():
            u = x if x.requires_grad else x.detach().requires_grad_()
            torch.autograd.grad(self.model(u).sum(), u, retain_graph=True)
        return self.model(x)


def test_their_warnings_are_kept(victim, digits, caplog):
    x, y, model = digits.x_test[:20], digits.y_test[:20], victim.model
    quick = {"attacks": ("apgd-ce",), "nb_iter": 3}
    with caplog.at_level(logging.WARNING, logger="art_sensreg.attacks.autoattack.backend"):
        found = _warnings(Noisy(model, 0.2), x, y, **quick)
    assert any("randomized defense" in text for text in found)
    assert any("randomized defense" in record.message for record in caplog.records)
    assert any("dynamic defense" in text for text in _warnings(Differentiating(model), x, y, **quick))
    assert any(
        "probability distribution" in text for text in _warnings(nn.Sequential(model, nn.Softmax(1)), x, y, **quick)
    )
    # Their count of calls to autograd is global: after the dynamic model above it would accuse every other.
    assert _warnings(model, x, y, **quick) == []


class Steps(nn.Module):
    """Rounds the image in the forward pass: its gradient is zero."""

    def forward(self, x):
        return torch.round(x * 8) / 8


def test_masked_gradients_are_warned_of_and_square_breaks_them(victim, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    masked = nn.Sequential(Steps(), victim.model)
    found = _warnings(masked, x, y, attacks=("apgd-dlr", "square"), nb_iter=3, nb_restarts=1, nb_queries=300)
    assert any("points with zero gradient" in text for text in found)
    assert any("Square Attack has decreased" in text for text in found)
    assert len(set(found)) == len(found)


# --- wrong arguments ------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(victim, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'art_sensreg\[bench\]'"):
        OfficialAutoAttack(victim)


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"norm": 3}, ValueError, "`norm` is 3; expected one of linf"),
        ({"eps": 0}, ValueError, "`eps` is 0"),
        ({"eps": -1.0}, ValueError, "`eps` is -1.0"),
        ({"eps": "a"}, TypeError, "`eps` is 'a'"),
        ({"version": "fast"}, ValueError, "`version` is 'fast'; expected one of standard, plus, rand"),
        ({"version": "custom"}, ValueError, "`version` is 'custom'"),
        ({"version": "plus", "attacks": ["square"]}, ValueError, "`version` is 'plus' and `attacks` is given"),
        ({"attacks": ["pgd"]}, ValueError, "`attacks` is 'pgd'; expected one of apgd-ce"),
        ({"attacks": "square"}, ValueError, "`attacks` is 'square'"),
        ({"attacks": []}, ValueError, "`attacks`"),
        ({"seed": -1}, ValueError, "`seed` is -1"),
        ({"seed": None}, TypeError, "`seed` is None"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"nb_iter": 0}, ValueError, "`nb_iter` is 0"),
        ({"nb_queries": 1.5}, TypeError, "`nb_queries` is 1.5"),
        ({"norm": 1, "nb_iter": 2}, ValueError, "`nb_iter` is 2; expected at least 3"),
    ],
)
def test_wrong_settings(victim, settings, error, named):
    with pytest.raises(error, match=named):
        OfficialAutoAttack(victim, **settings)
    attack = OfficialAutoAttack(victim)
    if "version" not in settings and "attacks" not in settings:
        with pytest.raises(error, match=named):
            attack.set_params(**settings)


@pytest.mark.parametrize(
    ("classes", "settings", "needed"),
    [
        (3, {}, 4),
        (2, {"version": "rand"}, 3),
        (3, {"version": "plus"}, 4),
        (2, {"attacks": ["apgd-dlr"]}, 3),
        (3, {"attacks": ["fab", "apgd-t"]}, 4),
    ],
)
def test_too_few_classes(classes, settings, needed):
    with pytest.raises(ValueError, match=f"has {classes} classes; expected at least {needed}.*apgd-ce.*square"):
        OfficialAutoAttack(linear((1, 8, 8), classes), **settings)


def test_images_too_small_for_square():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\).*attacks=\('apgd-ce', 'apgd-t', 'fab-t'\)"):
        OfficialAutoAttack(linear((1, 2, 2), 4), norm=2)
    OfficialAutoAttack(linear((1, 2, 2), 4), norm=np.inf)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"y": np.zeros(3, dtype=int)}, ValueError, "`y`"),
        ({"y": np.full(4, 10)}, ValueError, "`y`"),
        ({"y": np.full(4, -1)}, ValueError, "`y`"),
        ({"y": np.zeros((4, 7))}, ValueError, "`y`"),
        ({"x": np.zeros((4, 1, 8, 8), dtype=np.uint8)}, TypeError, "`x` has dtype uint8"),
        ({"x": np.full((4, 1, 8, 8), np.nan)}, ValueError, "`x` has NaN"),
        ({"x": np.full((4, 1, 8, 8), 2.0)}, ValueError, "`x` has values"),
        ({"x": np.zeros((4, 64))}, ValueError, "`x` has shape"),
        ({"mask": np.ones((1, 8, 8))}, ValueError, "`mask`"),
        ({"epsilon": 0.1}, TypeError, "`epsilon`"),
    ],
)
def test_wrong_images_and_labels(victim, digits, arguments, error, named):
    usual = {"x": digits.x_test[:4], "y": digits.y_test[:4]}
    with pytest.raises(error, match=named):
        OfficialAutoAttack(victim, eps=0.1).generate(**(usual | arguments))


def test_wrong_classifiers():
    with pytest.raises(TypeError, match="expected ART's PyTorchClassifier"):
        OfficialAutoAttack(nn.Identity())
    x = np.zeros((2, 1, 8, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="no `clip_values`"):
        OfficialAutoAttack(linear((1, 8, 8), 4, clip_values=None)).generate(x)
    uneven = (np.zeros((1, 8, 8)), np.linspace(1, 2, 64).reshape(1, 8, 8))
    with pytest.raises(ValueError, match="expected one range for all channels"):
        OfficialAutoAttack(linear((1, 8, 8), 4, clip_values=uneven)).generate(x)


def test_it_is_an_attack_of_art(victim, digits):
    attack = OfficialAutoAttack(victim, norm="inf", eps=0.1, attacks=("apgd-ce",), nb_iter=3)
    assert isinstance(attack, EvasionAttack)
    assert "eps=0.1" in repr(attack)
    attack.set_params(eps=0.3, norm=2)
    x_adv = attack.generate(x=digits.x_test[:5], y=digits.y_test[:5])
    size = np.linalg.norm((x_adv - digits.x_test[:5]).reshape(5, -1), axis=1)
    assert size.max() <= 0.3 + 1e-6
