import functools
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import TrainingConfig
from art_sensreg.art_bridge.placement import move, place, run_device

META = torch.device("meta")


@dataclass(frozen=True)
class Frozen:
    weight: torch.Tensor


def test_all_that_an_object_computes_with_is_moved():
    inner = nn.Linear(2, 2)
    thing = SimpleNamespace(
        weight=torch.ones(2),
        modules=[inner],
        table={"a": torch.ones(1), "b": 3},
    )
    move(thing, META)
    assert {thing.weight.device, inner.weight.device, thing.table["a"].device} == {META}
    assert thing.table["b"] == 3


def test_losses_partial_functions_and_frozen_dataclasses_are_moved():
    loss, frozen = nn.CrossEntropyLoss(weight=torch.ones(3)), Frozen(torch.ones(1))
    function = functools.partial(loss, label=torch.ones(2))
    for thing in (function, frozen):
        move(thing, META)
    assert {loss.weight.device, function.keywords["label"].device, frozen.weight.device} == {META}


def test_a_run_is_where_the_config_says_or_else_where_the_classifier_is():
    classifier = PyTorchClassifier(nn.Linear(2, 2), None, (2,), 2, device_type="cpu")
    assert run_device(classifier, TrainingConfig()) == run_device(classifier, TrainingConfig(device="cpu"))
    assert run_device(classifier, TrainingConfig()) == torch.device("cpu")


def test_a_classifier_moves_with_its_loss_and_preprocessing():
    loss = nn.CrossEntropyLoss(weight=torch.ones(2))
    classifier = PyTorchClassifier(nn.Linear(2, 2), loss, (2,), 2, preprocessing=(0.5, 0.5), device_type="cpu")
    place(classifier, META)
    assert classifier.device == META
    assert {classifier.model.weight.device, loss.weight.device} == {META}
    assert classifier.preprocessing_operations[0]._device == META
