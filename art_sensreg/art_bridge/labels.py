"""Labels in the form that a loss expects: stored as class indices, turned into probabilities batch by batch."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.penalties.forward.taps import trial
from art_sensreg.utils.model_rng import preserve_rng_state

logger = logging.getLogger(__name__)

# Their form is known; any other loss is tried out.
_INDEX_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)


class Targets:
    """
    Turns checked labels into what the loss of a classifier expects.

    The forms are `indices` (int64, `(n,)`), `probabilities` `(n, C)`, and a `column` of floats `(n, 1)`. For a loss
    that is not torch's own, the form is found by trial: ART's choice first, which goes by the class of the loss, then
    the others. A form in which the value depends on the labels wins over one that is merely accepted.
    """

    def __init__(self, classifier: PyTorchClassifier, batch_size: int) -> None:
        self._classifier, self._batch_size = classifier, batch_size
        self._by_art = _arts_form(classifier)
        self._form: str | None = None
        self._rounded = False

    def decide(self, model: nn.Module, x: torch.Tensor) -> None:
        """Find the form once, before any weight changes, with some images; ValueError if the loss accepts none."""
        if self._form is not None:
            return
        self._form = self._by_art
        loss = self._classifier.loss
        if type(loss) in _INDEX_LOSSES or self._own_reduction:
            return
        with trial(model, x):
            logits = model(x.clone())
        if isinstance(logits, torch.Tensor) and logits.ndim == 2:  # anything else is refused elsewhere
            self._form = self._form_by_trial(loss, logits.shape[1], len(x))
            if self._form == "indices":  # so that ART's attacks give it indices too
                self._classifier._reduce_labels = self._classifier._int_labels = True

    def store(self, labels: np.ndarray) -> torch.Tensor:
        """
        Checked labels as they are stored for the run, in the host's memory.

        They are indices, unless soft labels were given or the loss takes a column.
        """
        classifier = self._classifier
        if labels.ndim == 1 and (self._own_reduction or classifier.nb_classes == 1):
            labels = one_hot(torch.from_numpy(labels), classifier.nb_classes).numpy()
        targets: torch.Tensor
        if labels.ndim == 1:
            targets = torch.from_numpy(labels)
            targets = targets[:, None].float() if self._form == "column" else targets
        elif self._form == self._by_art:
            self._check_soft(labels)
            targets = torch.as_tensor(classifier.reduce_labels(labels))
        elif self._form == "probabilities":
            targets = torch.from_numpy(labels)
        else:
            self._check_soft(labels)
            targets = torch.from_numpy(labels.argmax(axis=1))
            targets = targets[:, None].float() if self._form == "column" else targets
        return targets.to(model_dtype(classifier.model)) if targets.is_floating_point() else targets

    def encode(self, y: torch.Tensor) -> torch.Tensor:
        """The labels of a batch in the form that the loss expects."""
        if self._form == "probabilities" and y.ndim == 1:
            return one_hot(y, self._classifier.nb_classes, model_dtype(self._classifier.model))
        return y

    @property
    def _own_reduction(self) -> bool:
        """Whether the classifier has its own way of turning probabilities into targets."""
        own = type(self._classifier).reduce_labels is not PyTorchClassifier.reduce_labels
        return own or "reduce_labels" in self._classifier.__dict__

    def _check_soft(self, labels: np.ndarray) -> None:
        """Warn about soft labels for a loss that takes class indices: ART rounds them."""
        classifier = self._classifier
        if self._form == "probabilities" or classifier._probability_labels or self._own_reduction:
            return
        if not self._rounded and not np.array_equal(labels, np.floor(labels)):
            self._rounded = True
            logger.warning(
                "`y` has soft labels, and the loss %s takes class indices: each label counts as its likeliest class.",
                type(classifier.loss).__name__,
            )

    def _form_by_trial(self, loss: Any, outputs: int, seen: int) -> str:
        """`seen`: how many images the model has just been given, since a loss may use what a hook kept of them."""
        forms = [self._by_art, *(form for form in ("probabilities", "indices", "column") if form != self._by_art)]
        if outputs > 1:  # a column beside several outputs would be broadcast
            forms = [form for form in forms if form != "column" or form == self._by_art]
        reason = ""
        for size in (4 if self._classifier.nb_classes == 3 else 3, self._batch_size, seen):
            scores: list[tuple[int, int, str]] = []
            for form in forms:
                try:
                    scores.append((self._score(loss, form, size, outputs), -len(scores), form))
                except Exception as error:  # noqa: BLE001 - losses of users raise anything
                    text = f"{type(error).__name__}: {error}".splitlines()[0]
                    reason = reason or text
            if scores:
                return max(scores)[2]
        raise ValueError(
            f"`loss` of the classifier, {getattr(loss, '__name__', type(loss).__name__)}, takes labels neither as "
            f"class indices (int64, (n,)) nor as class probabilities (n, {self._classifier.nb_classes}) beside "
            f"logits (n, {outputs}); expected a function loss(logits, labels) of one of these ({reason})."
        )

    def _score(self, loss: Any, form: str, size: int, outputs: int) -> int:
        """
        How well a form fits: 1 if the value depends on the labels, 2 if each example also counts separately.

        Labels of the wrong shape are often broadcast without an error.
        """
        classifier = self._classifier
        dtype, device = model_dtype(classifier.model), classifier.device
        logits = torch.rand(size, outputs, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        nearly = max(1e-5, 4 * torch.finfo(dtype).eps)

        def value(part: slice, shift: int = 0) -> torch.Tensor:
            indices = ((torch.arange(size) + shift) % classifier.nb_classes).to(device)[part]
            y = one_hot(indices, classifier.nb_classes, dtype) if form == "probabilities" else indices
            y = y[:, None].to(dtype) if form == "column" else y
            return _value(loss, logits[part].clone(), y)

        whole, other = value(slice(None)), value(slice(None), shift=1)
        if whole.shape != other.shape or torch.allclose(whole, other, rtol=nearly, atol=0.0):
            return 0
        try:
            single = torch.stack([value(slice(index, index + 1)) for index in range(size)])
        except Exception:  # noqa: BLE001 - a loss that compares examples
            return 1
        alone = any(torch.allclose(whole, of_all, rtol=10 * nearly) for of_all in (single.mean(), single.sum()))
        return 2 if alone else 1


def _value(loss: Any, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of some examples; neither it nor the global generators are left in another state."""
    if isinstance(loss, nn.Module):
        loss = _copied(loss)  # it may count, or learn
    with preserve_rng_state(logits.device, seed=0), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that are broadcast
        return torch.as_tensor(loss(logits.requires_grad_(True), y)).detach().double()


def one_hot(indices: torch.Tensor, nb_classes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One-hot labels `(n, C)`, created without any extra memory."""
    zeros = torch.zeros(len(indices), nb_classes, dtype=dtype, device=indices.device)
    return zeros.scatter_(1, indices[:, None], 1.0)


def _arts_form(classifier: PyTorchClassifier) -> str:
    if not classifier._reduce_labels or classifier.nb_classes == 1:
        return "probabilities"
    return "indices" if classifier._int_labels else "column"


def _copied(loss: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(loss)
    except Exception:  # noqa: BLE001 - it holds what cannot be copied
        return loss
