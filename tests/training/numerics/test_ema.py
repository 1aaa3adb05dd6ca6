"""The moving average of the weights."""

import copy

import pytest
import torch

from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import fit_digits


@pytest.mark.parametrize("warmup", [False, True])
def test_the_moving_average_is_what_is_returned(make_classifier, digits, warmup):
    plain, averaged = make_classifier(), make_classifier()
    seen = []

    class Record(Callback):
        def on_step(self, state):
            seen.append(copy.deepcopy(state.model.state_dict()))

    fit_digits(plain, digits)
    fit_digits(averaged, digits, ema=0.8, ema_warmup=warmup, callbacks=[Record()])
    assert same_weights(list(seen[-1].values()), weights_of(plain))  # the average does not change the training
    expected = seen[0]
    for done, later in enumerate(seen[1:], start=1):
        decay = min(0.8, (1 + done) / (10 + done)) if warmup else 0.8
        expected = {name: decay * value + (1 - decay) * later[name] for name, value in expected.items()}
    for name, value in averaged.model.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6)
