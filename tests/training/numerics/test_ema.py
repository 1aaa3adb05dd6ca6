"""The moving average of the weights."""

import copy

import torch

from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import fit_digits


def test_the_moving_average_is_what_is_returned(make_classifier, digits):
    plain, averaged = make_classifier(), make_classifier()
    seen = []

    class Record(Callback):
        def on_step(self, state):
            seen.append(copy.deepcopy(state.model.state_dict()))

    fit_digits(plain, digits)
    fit_digits(averaged, digits, ema=0.8, callbacks=[Record()])
    assert same_weights(list(seen[-1].values()), weights_of(plain))  # the average does not change the training
    expected = seen[0]
    for later in seen[1:]:
        expected = {name: 0.8 * value + 0.2 * later[name] for name, value in expected.items()}
    for name, value in averaged.model.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6)
