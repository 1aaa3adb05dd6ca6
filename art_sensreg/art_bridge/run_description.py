"""What the training run of an ART classifier is, for its checkpoints: see `training.checkpoint.fingerprint`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_sensreg.art_bridge.loaders import describe_source
from art_sensreg.training.batches import HeldOut, HeldOutLoader, HeldOutTensors
from art_sensreg.training.checkpoint.comparison import Fingerprint
from art_sensreg.training.checkpoint.describe import Describer
from art_sensreg.training.checkpoint.fingerprint import describe_data, fingerprint, own_things
from art_sensreg.training.run import RunSetup

Data = Callable[[Describer], dict[str, str]]


def description(classifier: PyTorchClassifier, setup: RunSetup, data: Data) -> Callable[[bool], Fingerprint]:
    """Make a function that describes a run as it is at the time of the call."""
    describe, validation = Describer([*own_things(setup), classifier]), setup.validation
    read = functools.cache(lambda used: data(describe))
    scored = functools.cache(lambda used: _describe_held_out(validation, describe))
    used = False

    def described(epoch_over: bool = False) -> Fingerprint:
        nonlocal used
        used = used or epoch_over
        preprocessing: dict[str, str] = {}
        for number, operation in enumerate(preprocessors(classifier)):
            preprocessing[str(number)] = type(operation).__name__
            preprocessing.update(describe.attributes(f"{number}", operation))
        further = {
            "preprocessing's": preprocessing,
            "validation data's": scored(used and isinstance(validation, HeldOutLoader)),
        }
        return fingerprint(setup, read(used), describe, further)

    return described


def preprocessors(classifier: PyTorchClassifier) -> list[Any]:
    """The preprocessing of a classifier but for mean and standard deviation, which are described with the data."""
    operations = classifier.preprocessing_operations
    return [part for part in operations if not type(part).__name__.startswith("StandardisationMeanStd")]


def _describe_held_out(validation: HeldOut | None, describe: Describer) -> dict[str, str]:
    if isinstance(validation, HeldOutTensors):
        return describe_data(validation.x, validation.y)
    return describe_source(validation.source, describe) if isinstance(validation, HeldOutLoader) else {}
