"""The stages are those of the package, and so is what it finds and warns of."""

import logging
import sys

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.autoattack.backend import MIN_CLASSES, VERSIONS
from art_sensreg.attacks.autoattack.rescale import RescaledModel
from tests.attacks.autoattack.models import EPS, THEIRS, WEAK, directly, linear, smoothed

package = pytest.importorskip("pyautoattack")


@pytest.fixture
def victim():
    return smoothed()


def test_versions_are_those_of_the_package():
    for version, stages in VERSIONS.items():
        assert package.AutoAttack(nn.Flatten(), version=version).attacks_to_run == list(stages)


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_equals_the_package(victim, digits, version, norm):
    # Batches of 16 of 40 images: survivors move up into the batches of the next stage, and the last one is short.
    x, y = digits.x_test[:40], digits.y_test[:40]
    attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm], version=version, seed=3, batch_size=16, **WEAK)
    ours = attack.generate(x, y)
    theirs, robust = directly(
        victim.model, x, y, norm=norm, eps=EPS[norm], seed=3, batch_size=16, version=version, **WEAK
    )
    assert np.array_equal(ours, theirs)
    assert np.array_equal(attack.robust, robust)
    assert 0 < robust.sum() < attack.masks["clean"].sum()


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("stage", MIN_CLASSES)
def test_a_single_attack_equals_the_package(victim, digits, stage, norm):
    x, y = digits.x_test[:30], digits.y_test[:30]
    attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm], attacks=(stage,), seed=1, batch_size=20, **WEAK)
    ours = attack.generate(x, y)
    theirs, robust = directly(
        victim.model, x, y, norm=norm, eps=EPS[norm], seed=1, batch_size=20, version="custom", attacks=[stage], **WEAK
    )
    assert attack.version == "custom"
    assert np.array_equal(ours, theirs)
    assert np.array_equal(attack.robust, robust)


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_strength_is_that_of_the_package(victim, digits, version, norm):
    attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm], version=version)
    ours = attack._backend(RescaledModel(victim, digits.input_shape)).package
    theirs = package.AutoAttack(victim.model, norm=THEIRS[norm], eps=EPS[norm], seed=0, version=version)
    assert ours.attacks_to_run == theirs.attacks_to_run
    for kind in ("apgd", "apgd_targeted", "fab", "square"):
        settings = [
            {name: value for name, value in vars(getattr(made, kind)).items() if not callable(value)}
            for made in (ours, theirs)
        ]
        same = settings[0].keys() - {"logger", "device"}
        assert {name: settings[0][name] for name in same} == {name: settings[1][name] for name in same}


@pytest.mark.parametrize("classes", [4, 5])
def test_fewer_than_ten_classes(classes):
    classifier = linear((1, 8, 8), classes)
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    y = classifier.predict(x).argmax(axis=1)
    attack = OfficialAutoAttack(classifier, eps=0.02, **WEAK)
    ours = attack.generate(x, y)
    theirs, robust = directly(classifier.model, x, y, norm="linf", eps=0.02, classes=classes, **WEAK)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(attack.robust, robust)
    assert 0 < robust.sum() < 20


def test_two_classes_have_attacks_too():
    classifier = linear((1, 8, 8), 2)
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    attack = OfficialAutoAttack(classifier, eps=0.02, attacks=("apgd-ce", "fab", "fab-t", "square"), **WEAK)
    attack.generate(x)
    assert 0 < attack.robust.sum() < 20


class Noisy(nn.Module):
    def __init__(self, model, std):
        super().__init__()
        self.model, self.std = model, std

    def forward(self, x):
        return self.model(x + self.std * torch.randn_like(x))


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


def test_warnings_of_the_package_are_kept(victim, digits, caplog):
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
    # The package counts calls to autograd globally: after the dynamic model above it would accuse every other model.
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


def test_a_missing_package_is_named(victim, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'art_sensreg\[bench\]'"):
        OfficialAutoAttack(victim)
