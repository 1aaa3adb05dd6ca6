"""A run continues from its state as if it had never been stopped."""

import pytest
import torch

from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.checkpoint.helpers import Run
from tests.training.helpers import Stop, fit_into


def test_what_cannot_be_stored_is_an_error_before_training(make_classifier, digits, tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"when": object()}

    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(TypeError, match="callbacks/0/when"):
        fit_into(classifier, digits, tmp_path, callbacks=[Odd()])
    assert same_weights(before, weights_of(classifier))


@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
@pytest.mark.parametrize("after", [1, 5, 7, 8])
def test_resumed_weights_are_bit_identical(make_classifier, digits, tmp_path, after, name):
    whole = fit_into(make_classifier(name), digits)
    with pytest.raises(InterruptedError):
        fit_into(make_classifier(name), digits, tmp_path, callbacks=[Stop(after)], checkpoint_every=3)
    classifier = make_classifier(name)
    torch.rand(5)
    resumed = fit_into(classifier, digits, tmp_path, resume=True, checkpoint_every=3)
    assert same_weights(weights_of(classifier), weights_of(whole.classifier))
    drop = [[{k: v for k, v in r.items() if k != "seconds"} for r in t.history] for t in (whole, resumed)]
    assert drop[0] == drop[1]


def test_a_finished_run_can_be_resumed_and_lengthened(make_classifier, digits, tmp_path):
    first = fit_into(make_classifier(), digits, tmp_path, epochs=2)
    again = fit_into(make_classifier(), digits, tmp_path, epochs=2, resume=True)
    assert same_weights(weights_of(first.classifier), weights_of(again.classifier))
    longer = fit_into(make_classifier(), digits, tmp_path, epochs=4, resume=True)
    whole = fit_into(make_classifier(), digits, epochs=4)
    assert same_weights(weights_of(longer.classifier), weights_of(whole.classifier))
    with pytest.raises(ValueError, match=r"`nb_epochs` is 3; the checkpoint has done 4 epochs"):
        fit_into(make_classifier(), digits, tmp_path, epochs=3, resume=True)


def test_without_a_seed_a_resumed_run_takes_that_of_the_first(make_classifier, digits, tmp_path):
    whole = fit_into(make_classifier(), digits, seed=None)
    with pytest.raises(InterruptedError):
        fit_into(make_classifier(), digits, tmp_path, seed=None, callbacks=[Stop(6)])
    torch.manual_seed(5)
    classifier = make_classifier()
    torch.manual_seed(6)
    fit_into(classifier, digits, tmp_path, seed=None, resume=True)
    assert same_weights(weights_of(classifier), weights_of(whole.classifier))


def test_frozen_weights_come_back_as_they_were(tmp_path):
    """Weights that a callback froze in the middle of a run stay so."""

    class Freeze(Callback):
        def on_epoch(self, state):
            if state.epoch == 1:
                dict(state.model.named_parameters())["0.weight"].requires_grad_(False)

    whole = Run(config={"callbacks": [Freeze()]}, epochs=3).start(None)
    Run(config={"callbacks": [Freeze()]}, epochs=1).start(tmp_path)
    resumed = Run(epochs=3).start(tmp_path, resume=True)
    pairs = zip(whole.classifier.model.parameters(), resumed.classifier.model.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.requires_grad == b.requires_grad for a, b in pairs)
