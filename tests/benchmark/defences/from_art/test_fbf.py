"""Fast Is Better than Free: what is repaired, and which learning rates it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from art.defences.trainer import AdversarialTrainerFBFPyTorch

from art_sensreg.benchmark.config import OptimizationSettings
from art_sensreg.benchmark.defences import DEFENCES, NotApplicable
from art_sensreg.benchmark.defences.from_art.fbf import RepairedFBF
from art_sensreg.benchmark.defences.registry import resolve_options
from art_sensreg.benchmark.engine.runtime import quiet
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import small_spec, trained
from tests.conftest import same_weights, weights_of


def test_fbf_enters_training_mode_only_if_repaired(digits: Dataset) -> None:
    spec = small_spec(digits, epochs=1, norm_layer="batch", model="cnn-small")
    for kind, moves in ((AdversarialTrainerFBFPyTorch, False), (RepairedFBF, True)):
        classifier = spec.art_classifier()
        classifier.model.eval()
        more = (spec.one_cycle(classifier),) if kind is RepairedFBF else ()
        spec.fit(kind(classifier, 0.1, *more))
        (first, *_) = [module for module in classifier.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert bool((first.running_mean != 0).any()) == moves


def test_a_rate_of_its_own_is_that_of_fbf(digits: Any) -> None:
    def fbf(name: str, rate: Any, **settings: Any) -> Any:
        spec = small_spec(
            digits, n=24, model="mlp", epochs=2, batch_size=12, optimization=OptimizationSettings(**settings)
        )
        with quiet():
            return weights_of(trained(DEFENCES[name].train, spec, resolve_options(name, {"learning_rate": rate}, {})))

    own = fbf("art-fbf-fixed", None)
    assert same_weights(own, fbf("art-fbf-fixed", 0.21))
    assert not same_weights(own, fbf("art-fbf-fixed", 1e-4))
    for name in ("art-fbf", "art-fbf-fixed"):  # a schedule for all rows leaves its SGD the rate of SGD
        constant = {"schedule": "constant"}
        assert same_weights(fbf(name, None, **constant), fbf(name, 0.21, **constant))
        assert not same_weights(fbf(name, None, **constant), fbf(name, 0.1, **constant))
    asked = {"optimizer": "adam", "schedule": "constant"}
    for name in ("art-fbf", "art-fbf-fixed"):
        assert not same_weights(fbf(name, None, **asked), fbf(name, 1e-4, **asked))
        with pytest.raises(ValueError, match="`learning_rate` is 0"):
            fbf(name, 0)
    with pytest.raises(NotApplicable, match="replaces every learning rate by those of its own schedule"):
        fbf("art-fbf", 1e-4)
