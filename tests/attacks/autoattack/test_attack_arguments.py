"""What the official AutoAttack refuses, and how."""

import numpy as np
import pytest
from art.attacks import EvasionAttack
from torch import nn

from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from tests.attacks.autoattack.models import linear, smoothed

pytest.importorskip("pyautoattack")


@pytest.fixture
def victim():
    return smoothed()


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
