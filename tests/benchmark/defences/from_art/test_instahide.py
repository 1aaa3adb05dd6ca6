from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from art_sensreg.benchmark.defences.from_art.instahide import INSTAHIDE_OPTIONS, train_dp_instahide
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.datasets import Dataset
from tests.conftest import same_weights, weights_of


def small_task(digits: Dataset, n: int = 300, **kwargs: Any) -> TrainingSpec:
    settings = {"model": "mlp", "epochs": 3, "learning_rate": 0.01, "norm": "linf", "eps": 0.1, "batch_size": 32}
    dataset = replace(digits, x_train=digits.x_train[:n], y_train=digits.y_train[:n])
    fixed = {"dataset": dataset, "activation": "relu", "norm_layer": "none", "seed": 0, "device": "cpu"}
    return TrainingSpec(**{**fixed, **settings, **kwargs})


def accuracy(task: TrainingSpec, model: torch.nn.Module) -> float:
    """Of a new model of the task with these weights: they must fit it."""
    fresh = task.new_model()
    fresh.load_state_dict(model.state_dict())
    predicted = task.classifier(fresh).predict(task.dataset.x_test).argmax(axis=1)
    return float((predicted == task.dataset.y_test).mean())


def trained(train: Any, task: TrainingSpec, options: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    np.random.seed(seed)
    return train(task, options)


def test_learns_and_is_the_same_for_the_same_seed(digits: Dataset, capsys: Any) -> None:
    task = small_task(digits, model="cnn-small", epochs=5)
    classifier = trained(train_dp_instahide, task, INSTAHIDE_OPTIONS)
    assert accuracy(task, classifier.model) > 0.4
    again = trained(train_dp_instahide, task, INSTAHIDE_OPTIONS)
    other = trained(train_dp_instahide, task, INSTAHIDE_OPTIONS, seed=1)
    assert same_weights(weights_of(classifier), weights_of(again))
    assert not same_weights(weights_of(classifier), weights_of(other))
    assert capsys.readouterr().out == ""


def test_the_schedule_runs_to_its_end(digits: Dataset) -> None:
    task = small_task(digits)
    assert trained(train_dp_instahide, task, INSTAHIDE_OPTIONS).optimizer.param_groups[0]["lr"] < 1e-4
