"""What an audit is given is checked before anything is measured."""

from __future__ import annotations

import re

import numpy as np
import pytest
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegClassifier, audit
from tests.auditing.models.planted_base import wrap
from tests.auditing.reports import context_of, report_of


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"eps": 0.0}, ValueError, "`eps` is 0.0; expected a finite number above 0"),
        ({"eps": -1}, ValueError, "`eps` is -1"),
        ({"eps": float("nan")}, ValueError, "`eps` is nan"),
        ({"eps": "much"}, TypeError, "`eps` is 'much'"),
        ({"norm": "l3"}, ValueError, "`norm` is 'l3'; expected one of linf"),
        ({"norm": 7}, ValueError, "`norm` is 7"),
        ({"checks": ["eval_mode", "magic"]}, ValueError, "`checks` is 'magic'; expected names of eval_mode"),
        ({"checks": []}, ValueError, "`checks` is empty"),
        ({"checks": [[1]]}, ValueError, "`checks` is"),
        ({"y": np.arange(59) % 10}, ValueError, "`y` has 59 labels; expected 60"),
        ({"y": np.full(60, 10)}, ValueError, "`y` has class indices from 10 to 10"),
        ({"y": np.full((60, 7), 1 / 7)}, ValueError, "`y` has 7 columns"),
        ({"y": np.full(60, 0.5)}, ValueError, "`y` has fractional class indices"),
        ({"x": np.zeros((60, 1, 9, 9))}, ValueError, "`x` has images of shape"),
        ({"x": np.zeros((0, 1, 8, 8)), "y": np.zeros(0)}, ValueError, "`x` has shape"),
        ({"seed": -1}, ValueError, "`seed` is -1"),
        ({"twin": "none"}, TypeError, "`twin` holds str"),
        ({"surrogates": [nn.Identity()]}, TypeError, "`surrogates` holds Identity"),
        ({"penalties": [3]}, TypeError, "`penalties` holds int"),
        ({"train_data": np.zeros(3)}, ValueError, "`train_data` is not a pair"),
        ({"train_data": (np.zeros((5, 3)), np.zeros(5))}, ValueError, "`train_data`: `x` has images"),
    ],
)
def test_wrong_input_is_one_clear_error(digits, plain, given, error, words):
    arguments = {"x": digits.x_test[:60], "y": digits.y_test[:60], "eps": 0.1, **given}
    with pytest.raises(error, match="^" + re.escape(words)):
        audit(plain, **arguments)


def test_other_classifiers_are_refused(digits, plain):
    black_box = BlackBoxClassifier(lambda x: np.eye(10)[np.zeros(len(x), dtype=int)], digits.input_shape, 10)
    for classifier, name in ((black_box, "BlackBoxClassifier"), (plain.model, "FeatureClassifier")):
        with pytest.raises(TypeError, match=f"`classifier` is {name}; expected ART's PyTorchClassifier"):
            report_of(classifier, digits)


def test_a_twin_of_other_images_or_another_range_is_refused(digits, plain):
    other = PyTorchClassifier(nn.Flatten(), nn.CrossEntropyLoss(), (1, 2, 5), 10, device_type="cpu")
    with pytest.raises(ValueError, match="`twin` takes images"):
        report_of(plain, digits, twin=other)
    with pytest.raises(ValueError, match="`twin` has `clip_values`"):
        report_of(plain, digits, twin=wrap(digits, plain.model, clip_values=(0.0, 2.0)))


def test_a_single_object_is_as_good_as_a_list(digits, plain):
    checks = ["hidden_distances_gain_little", "transfer_from_surrogates"]
    alone = report_of(plain, digits, checks=checks, penalties=SensitivityPenalty(), surrogates=plain)
    listed = report_of(plain, digits, checks=checks, penalties=[SensitivityPenalty()], surrogates=[plain])
    assert alone.verdict == listed.verdict


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"eps": 8}, ValueError, r"`eps` is 8; expected at most 1, the largest linf .*in \[0, 1\]: 8/255\?"),
        ({"eps": "8"}, ValueError, r"8/255\?"),
        ({"eps": 8.1, "norm": "l2"}, ValueError, "expected at most 8, the largest l2 distance"),
        ({"eps": 65, "norm": 1}, ValueError, "expected at most 64, the largest l1 distance"),
        ({"eps": 1e308}, ValueError, "`eps` is 1e"),
        ({"eps": 10**400}, ValueError, "`eps` "),
        ({"eps": "nan"}, ValueError, "`eps` is nan; expected a finite number above 0"),
        ({"eps": "-8/255"}, TypeError, "`eps` is '-8/255'; expected a number above 0, or a fraction"),
        ({"eps": "8/0"}, TypeError, "`eps` is '8/0'"),
        ({"eps": "1/2/3"}, TypeError, "`eps` is '1/2/3'"),
    ],
)
def test_sizes_in_other_units_are_refused(digits, plain, given, error, words):
    with pytest.raises(error, match=words):
        report_of(plain, digits, 4, checks=["eval_mode"], **given)


def test_a_size_may_be_a_fraction(digits, plain):
    assert report_of(plain, digits, 4, eps="8/255", checks=["eval_mode"]).settings["eps"] == 8 / 255


def test_the_range_of_each_pixel_counts():
    low, high = np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), 255, np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    loss = nn.CrossEntropyLoss()
    classifier = SensRegClassifier(model, loss, (1, 2, 2), 2, clip_values=(low, high), device_type="cpu")
    x, y = np.zeros((2, 1, 2, 2), np.float32), np.array([0, 1])
    assert audit(classifier, x, y, eps=8, checks=["eval_mode"]).settings["eps"] == 8
    with pytest.raises(ValueError, match="expected at most 255"):
        audit(classifier, x, y, eps=256, checks=["eval_mode"])


def test_random_numbers_depend_on_seed_and_purpose_alone(digits, tiny):
    def draw(seed, *purpose):
        return (
            context_of(tiny, digits.x_test[:2], digits.y_test[:2], seed=seed).inputs.generator(*purpose).initial_seed()
        )

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({draw(0, "a", 1), draw(0, "a", 2), draw(0, "b", 1), draw(1, "a", 1)}) == 4
