"""Copies of classifiers and their weights in files."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from art import config
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier
from tests.conftest import same_weights, weights_of

PENALTIES = (SensitivityPenalty(), JacobianPenalty())


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-3, betas=(0.8, 0.9), amsgrad=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.3),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, alpha=0.7),
}


def with_groups(make_classifier, optimizer, **kwargs):
    classifier = make_classifier(penalties=PENALTIES, **kwargs)
    *rest, last = classifier.model.parameters()
    classifier._optimizer = OPTIMIZERS[optimizer](
        [{"params": rest}, {"params": [last], "lr": 0.05, "weight_decay": 0.0}]
    )
    return classifier


def settings(optimizer):
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clone_for_refitting(make_classifier, digits, optimizer):
    classifier = with_groups(make_classifier, optimizer, preprocessing=(0.2, 0.5), clip_values=(0.0, 2.0))
    classifier.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=1)
    clone = classifier.clone_for_refitting()
    assert type(clone) is SensRegClassifier
    assert type(clone.optimizer) is type(classifier.optimizer)
    assert settings(clone.optimizer) == settings(classifier.optimizer)
    assert clone.optimizer.state == {}
    assert clone.penalties == PENALTIES
    assert clone.device == classifier.device
    assert clone.clip_values.tolist() == [0.0, 2.0]
    assert clone.preprocessing is classifier.preprocessing
    assert not same_weights(weights_of(clone), weights_of(classifier))
    counts = [[len(group["params"]) for group in c.optimizer.param_groups] for c in (clone, classifier)]
    assert counts[0] == counts[1]
    before, original = weights_of(clone), weights_of(classifier)
    clone.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=1)
    assert not any(torch.equal(a, b) for a, b in zip(before, weights_of(clone), strict=True))
    assert same_weights(original, weights_of(classifier))


def test_a_clone_starts_at_the_learning_rate_before_scheduling(make_classifier, digits):
    classifier = make_classifier()
    scheduler = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, gamma=0.1)
    classifier.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=3, scheduler=scheduler)
    assert classifier.optimizer.param_groups[0]["lr"] == pytest.approx(3e-6)
    assert classifier.clone_for_refitting().optimizer.param_groups[0]["lr"] == 3e-3


def test_clones_that_cannot_be_made(make_classifier):
    with pytest.raises(ValueError, match=r"`optimizer` is None; expected one"):
        make_classifier(optimizer=None).clone_for_refitting()
    stranger = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"`optimizer` holds parameters that are not the model's"):
        make_classifier(optimizer=torch.optim.SGD([stranger], lr=0.1)).clone_for_refitting()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_copies_are_equal_independent_and_write_no_files(
    make_classifier, digits, tmp_path, monkeypatch, copier, optimizer
):
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path))
    x, y = digits.x_train[:100], digits.y_train[:100]
    classifier = with_groups(make_classifier, optimizer, clip_values=(0.0, 1.0))
    classifier.fit(x, y, nb_epochs=1, seed=0)
    twin = copier(classifier)
    assert os.listdir(tmp_path) == []
    assert np.array_equal(twin.predict(x), classifier.predict(x))
    assert twin.penalties == PENALTIES
    assert twin.history == classifier.history
    original = weights_of(classifier)
    twin.fit(x, y, nb_epochs=1, seed=1)
    assert same_weights(original, weights_of(classifier))
    classifier.fit(x, y, nb_epochs=1, seed=1)  # the optimizer's state came along: the twin goes the same way
    assert same_weights(weights_of(twin), weights_of(classifier))


def test_weights_in_files(make_classifier, digits, tmp_path):
    x, y = digits.x_train[:100], digits.y_train[:100]
    classifier = make_classifier(norm_layer="batch", penalties=PENALTIES)
    classifier.fit(x, y, nb_epochs=1, seed=0)
    classifier.save("model", str(tmp_path / "folder"))
    assert sorted(os.listdir(tmp_path / "folder")) == ["model.safetensors"]
    other = make_classifier(norm_layer="batch", penalties=PENALTIES)
    other.load_weights("model", str(tmp_path / "folder"))
    assert np.array_equal(other.predict(x), classifier.predict(x))
    for each in (classifier, other):
        each.fit(x, y, nb_epochs=1, seed=1)
    assert same_weights(weights_of(classifier), weights_of(other))


def test_weights_of_another_architecture_or_none(make_classifier, tmp_path):
    make_classifier("mlp").save("model", str(tmp_path))
    other = make_classifier("cnn-small", optimizer=None)
    before = weights_of(other)
    with pytest.raises(ValueError, match=r"The file holds 'features.1.*; expected"):
        other.load_weights("model", str(tmp_path))
    assert same_weights(before, weights_of(other))
    model = make_classifier("mlp")
    model._optimizer = torch.optim.SGD(model.model.parameters(), lr=0.1)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"The file holds the state of another optimizer; expected one of SGD"):
        model.load_weights("model", str(tmp_path))
    assert same_weights(before, weights_of(model))
    with pytest.raises(FileNotFoundError):
        make_classifier("mlp").load_weights("other", str(tmp_path))


def test_a_failed_save_leaves_the_former_file(make_classifier, tmp_path, monkeypatch):
    classifier = make_classifier("mlp")
    classifier.save("model", str(tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        classifier.save("model", str(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_copies_after_reading_activations(make_classifier, digits):
    classifier = make_classifier()
    x = digits.x_test[:8]
    first = classifier.get_activations(x, "features")
    assert np.array_equal(first, make_classifier(kind=PyTorchClassifier).get_activations(x, "features"))
    for twin in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert twin.get_activations(x[:5], "features").shape == (5, 128)
    classifier.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1)
    copy.deepcopy(classifier)
    assert not any(module._forward_hooks for module in classifier.model.modules())


def test_clones_name_the_weights_that_cannot_be_initialised_again(digits, caplog):
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            rows = x[:, 0] + self.token
            return self.head(self.attention(rows, rows, rows)[0].flatten(1))

    model = Token()
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device_type="cpu",
    )
    clone = classifier.clone_for_refitting()
    assert not torch.equal(clone.model.attention.in_proj_weight, model.attention.in_proj_weight)
    assert "stay as they are: token." in caplog.text
