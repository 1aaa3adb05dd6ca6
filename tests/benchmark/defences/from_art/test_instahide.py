"""DP-InstaHide as ART ships it."""

from __future__ import annotations

from typing import Any

from art_sensreg.benchmark.defences.from_art.instahide import INSTAHIDE_OPTIONS, train_dp_instahide
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import accuracy, small_spec, trained
from tests.conftest import same_weights, weights_of


def test_learns_and_is_the_same_for_the_same_seed(digits: Dataset, capsys: Any) -> None:
    spec = small_spec(digits, model="cnn-small", epochs=5)
    classifier = trained(train_dp_instahide, spec, INSTAHIDE_OPTIONS)
    assert accuracy(spec, classifier.model) > 0.4
    again = trained(train_dp_instahide, spec, INSTAHIDE_OPTIONS)
    other = trained(train_dp_instahide, spec, INSTAHIDE_OPTIONS, seed=1)
    assert same_weights(weights_of(classifier), weights_of(again))
    assert not same_weights(weights_of(classifier), weights_of(other))
    assert capsys.readouterr().out == ""


def test_the_schedule_runs_to_its_end(digits: Dataset) -> None:
    spec = small_spec(digits)
    assert trained(train_dp_instahide, spec, INSTAHIDE_OPTIONS).optimizer.param_groups[0]["lr"] < 1e-4
