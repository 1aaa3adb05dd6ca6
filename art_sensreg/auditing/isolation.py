"""Inspected classifiers are left as they were: random states, modes, weight gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from art.estimators.classification import PyTorchClassifier

from art_sensreg.utils.autograd import preserve_grad
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.modes import preserve_mode


@contextmanager
def preserve_all(classifiers: Sequence[PyTorchClassifier], seed: int) -> Iterator[None]:
    """
    Inside, the global random states begin with a seed; they, and the modes and weight gradients of the classifiers, are
    put back afterwards.
    """
    with ExitStack() as stack:
        stack.enter_context(preserve_rng_state(seed=seed))
        for classifier in classifiers:
            stack.enter_context(preserve_mode(classifier.model.modules()))
            stack.enter_context(preserve_grad(classifier.model))
            stack.enter_context(preserve_rng_state(classifier.device, seed))
        yield
