"""What is looked at is left as it was: random state, modes, weight gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier


@contextmanager
def preserve_all(classifiers: Sequence[PyTorchClassifier], seed: int) -> Iterator[None]:
    """
    Global random state seeded inside, and put back after; modes and weight gradients too.

    :param classifiers: Those that are looked at.
    :param seed: Seed inside.

    Example:
    >>> from art_sensreg.auditing.isolation import preserve_all
    >>> before = torch.get_rng_state()
    >>> with preserve_all([], seed=0):
    ...     noise = torch.rand(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    modules = [module for classifier in classifiers for module in classifier.model.modules()]
    modes = [(module, module.training) for module in modules]
    parameters = [parameter for classifier in classifiers for parameter in classifier.model.parameters()]
    gradients = [parameter.grad for parameter in parameters]
    numpy_state = np.random.get_state()
    devices = sorted({classifier.device.index or 0 for classifier in classifiers if classifier.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        np.random.set_state(numpy_state)
        for module, training in modes:
            module.training = training
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
