"""Labels: indices from beginning to end, and the form that a loss takes, found out before training."""

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing, LabelSmoothing, Mixup
from torch import nn
from torch.nn import functional

from art_sensreg import SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD
from art_sensreg.art_bridge.labels import Targets
from art_sensreg.training import ValidationAttack
from tests.conftest import same_weights, weights_of

X = np.random.default_rng(0).random((20, 4), dtype=np.float32)


Y = np.arange(20) % 3


ROWS = np.eye(3, dtype=np.float32)


def make(loss, outputs=3, classes=3, last=(), **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs), *last)
    options.setdefault("optimizer", torch.optim.SGD(net.parameters(), 0.1))
    options = {"penalties": [], **options}
    return SensRegClassifier(net, loss, (4,), classes, clip_values=(0, 1), device_type="cpu", **options)


def trained(classifier, y, x=X, **settings):
    trainer = SensRegTrainer(classifier, [SensitivityPenalty()], TrainingConfig(seed=0, batch_size=8))
    trainer.fit(x, y, nb_epochs=2, verbose=False, **settings)
    drop = [{name: value for name, value in record.items() if name != "seconds"} for record in trainer.history]
    return weights_of(classifier), drop


def by_hand(loss, targets, outputs=3, last=(), epochs=2):
    """The same training without this package, on all rows at once: no order to agree on."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs), *last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(net(torch.from_numpy(X)), targets).backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


def gathered(logits, y):
    """Takes int64 indices and nothing else."""
    return -torch.log_softmax(logits, 1).gather(1, y[:, None]).mean()


def expanded(logits, y):
    return functional.mse_loss(torch.softmax(logits, 1), functional.one_hot(y, 3).float())


def kl(logits, y):
    """Takes rows."""
    return functional.kl_div(torch.log_softmax(logits, 1), y, reduction="batchmean")


class Margin(nn.Module):
    """A loss with a counter, and noise of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits, y):
        self.calls += 1
        return functional.multi_margin_loss(logits + 0.1 * torch.randn_like(logits), y)


class Distillation(nn.CrossEntropyLoss):
    """ART takes it for a loss of indices, by its class."""

    def forward(self, logits, y):
        return -(y * torch.log_softmax(logits, 1)).sum(1).mean()


LOSSES = {
    "cross-entropy": (nn.CrossEntropyLoss(), (), "indices"),
    "weighted": (nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1), (), "indices"),
    "nll": (nn.NLLLoss(), (nn.LogSoftmax(1),), "indices"),
    "multi-margin": (nn.MultiMarginLoss(), (), "indices"),
    "gather": (gathered, (), "indices"),
    "functional": (functional.cross_entropy, (), "rows"),
    "functional nll": (functional.nll_loss, (nn.LogSoftmax(1),), "indices"),
    "one_hot inside": (expanded, (), "indices"),
    "kl": (kl, (), "rows"),
    "mse": (nn.MSELoss(), (), "rows"),
    "bce on each class": (nn.BCEWithLogitsLoss(), (), "rows"),
    "subclass that takes rows": (Distillation(), (), "rows"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_gets_what_it_takes(name):
    loss, last, form = LOSSES[name]
    targets = {"indices": torch.from_numpy(Y), "rows": torch.from_numpy(ROWS[Y])}[form]
    expected = by_hand(loss, targets, last=last)
    for y in (Y, ROWS[Y], Y[:, None], Y.tolist()):
        classifier = make(loss, last=last)
        trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=20))
        trainer.fit(X, y, nb_epochs=2, validation_data=(X, y), verbose=False)
        for weight, right in zip(weights_of(classifier), expected, strict=True):
            torch.testing.assert_close(weight, right, rtol=1e-5, atol=1e-6)
        logits = classifier.model(torch.from_numpy(X))
        right = float(loss(logits, targets))
        assert trainer.history[-1]["val_loss"] == pytest.approx(right, rel=1e-5)
        assert trainer.history[-1]["val_accuracy"] == pytest.approx(float((logits.argmax(1).numpy() == Y).mean()))


@pytest.mark.parametrize("name", LOSSES)
def test_indices_and_one_hot_labels_train_alike(name):
    """Bit for bit, with noise, a validation attack, and batches in their own order."""
    loss, last, _ = LOSSES[name]
    results = []
    for y in (Y, ROWS[Y]):
        classifier = make(loss, last=last)
        config = TrainingConfig(seed=0, batch_size=8, validation_attack=ValidationAttack(eps=0.1, max_iter=2))
        trainer = SensRegTrainer(classifier, [SensitivityPenalty()], config, adversary=PGD(eps=0.1, max_iter=2))
        trainer.fit(X, y, validation_data=(X, y), nb_epochs=2, verbose=False)
        drop = [{name: value for name, value in record.items() if name != "seconds"} for record in trainer.history]
        results.append((weights_of(classifier), drop))
    assert same_weights(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_soft_labels_stay_soft_or_are_rounded_with_a_warning(caplog):
    soft = (0.8 * ROWS[Y] + 0.2 / 3).astype(np.float32)
    for loss in (nn.CrossEntropyLoss(), kl):
        expected = by_hand(loss, torch.from_numpy(soft))
        classifier = make(loss)
        SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=20)).fit(X, soft, nb_epochs=2, verbose=False)
        for weight, right in zip(weights_of(classifier), expected, strict=True):
            torch.testing.assert_close(weight, right, rtol=1e-5, atol=1e-6)
    assert "soft labels" not in caplog.text
    for loss, last in ((nn.NLLLoss(), [nn.LogSoftmax(1)]), (gathered, [])):
        caplog.clear()
        assert same_weights(trained(make(loss, last=last), soft)[0], trained(make(loss, last=last), Y)[0])
        assert caplog.text.count("takes class indices: each label counts as its likeliest class") == 1


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        (nn.BCEWithLogitsLoss(), ()),
        (nn.BCELoss(), (nn.Sigmoid(),)),
        (functional.binary_cross_entropy_with_logits, ()),
    ],
)
def test_one_output(loss, last):
    y = (X.sum(1) > 2).astype(int)
    expected = by_hand(loss, torch.from_numpy(y).float()[:, None], outputs=1, last=last)
    for labels in (y, np.eye(2)[y]):
        classifier = make(loss, outputs=1, classes=2, last=last)
        SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=20)).fit(X, labels, nb_epochs=2, verbose=False)
        for weight, right in zip(weights_of(classifier), expected, strict=True):
            torch.testing.assert_close(weight, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("squeezed", [False, True])
def test_labels_that_would_be_broadcast_get_the_shape_that_fits(squeezed):
    """Beside one output, labels of three shapes are taken without an error, and two of them are wrong."""

    def hinge(logits, y):
        logits = logits.squeeze(1) if squeezed else logits
        return (1 - logits * (2 * y - 1)).relu().mean()

    hinge.single_output = "logit"
    y = (X.sum(1) > 2).astype(int)
    right = torch.from_numpy(y).float()
    expected = by_hand(hinge, right if squeezed else right[:, None], outputs=1)
    classifier = make(hinge, outputs=1, classes=2)
    SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=20)).fit(X, y, nb_epochs=2, verbose=False)
    for weight, right in zip(weights_of(classifier), expected, strict=True):
        torch.testing.assert_close(weight, right, rtol=1e-5, atol=1e-6)


def test_a_loss_that_takes_neither_is_refused():
    def strange(logits, y):
        raise KeyError("mask")

    classifier = make(strange)
    before = weights_of(classifier)
    with pytest.raises(ValueError, match=r"`loss` of the classifier, strange, takes labels neither .*KeyError: 'mask'"):
        classifier.fit(X, Y, nb_epochs=1)
    assert same_weights(before, weights_of(classifier))


def test_a_loss_that_needs_a_whole_batch_is_tried_with_one():
    def queue(logits, y):
        return functional.cross_entropy(logits.view(20, -1), y)

    classifier = make(queue)
    classifier.fit(X, Y, nb_epochs=1, batch_size=20, seed=0)
    assert classifier.history[0]["loss"] > 0


def test_the_trial_leaves_no_trace():
    loss = Margin()
    classifier = make(loss)
    targets = Targets(classifier, batch_size=8)
    before = torch.get_rng_state()
    targets.decide(classifier.model, torch.zeros(2, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert loss.calls == 0
    assert targets.store(Y).tolist() == Y.tolist()


def test_arts_attacks_get_indices_too():
    from art.attacks.evasion import FastGradientMethod

    classifier = make(gathered)
    classifier.fit(X, Y, nb_epochs=1, seed=0)
    adversarial = FastGradientMethod(classifier, eps=0.1).generate(X, ROWS[Y])
    x = torch.from_numpy(X).requires_grad_()
    gathered(classifier.model(x), torch.from_numpy(Y)).backward()
    expected = (X + 0.1 * np.sign(x.grad.numpy())).clip(0, 1)
    assert np.allclose(adversarial, expected, atol=1e-6)


def test_preprocessors_of_labels_get_probabilities():
    smoothing = LabelSmoothing(max_value=0.9)
    smoothed = np.where(ROWS[Y] == 1, 0.9, 0.05).astype(np.float32)
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=3, apply_fit=True)
    squeezed = squeezing(X)[0]
    expected = trained(make(nn.CrossEntropyLoss()), smoothed, squeezed)
    for y in (Y, ROWS[Y]):
        result = trained(make(nn.CrossEntropyLoss(), preprocessing_defences=[squeezing, smoothing]), y)
        assert same_weights(result[0], expected[0])


def test_random_preprocessors_draw_once():
    results = []
    for y in (Y, ROWS[Y]):
        np.random.seed(0)
        results.append(trained(make(nn.CrossEntropyLoss(), preprocessing_defences=Mixup(num_classes=3)), y))
    assert same_weights(results[0][0], results[1][0])


def test_a_users_own_preprocessor_gets_probabilities():
    from art.defences.preprocessor import Preprocessor

    class Noisy(Preprocessor):
        def __init__(self):
            super().__init__(is_fitted=True, apply_fit=True, apply_predict=False)

        def __call__(self, x, y=None):
            assert y.shape == (len(x), 3)
            return x, 0.9 * y + 0.1 / 3

    expected = trained(make(nn.CrossEntropyLoss()), (0.9 * ROWS[Y] + 0.1 / 3).astype(np.float32))
    result = trained(make(nn.CrossEntropyLoss(), preprocessing_defences=Noisy()), Y)
    assert same_weights(result[0], expected[0])
