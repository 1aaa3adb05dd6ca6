"""The classifier under audit as the checks see it: its differentiable model and its predictions."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.attacks.base.predictions import predicted_scores
from art_sensreg.attacks.wrappers.torch_model import differentiable_model
from art_sensreg.auditing.context.inputs import AuditInputs
from art_sensreg.outputs import SingleOutput
from art_sensreg.randomized import RandomizedClassifier

# Repeated outputs that differ by less, relative to their scale, count as equal: some GPU kernels sum in any order.
SAME_OUTPUTS = 1e-5


class AuditedModel:
    """A classifier and its predictions on the images of an audit; what several checks need is computed once."""

    def __init__(self, inputs: AuditInputs) -> None:
        self.classifier: PyTorchClassifier = inputs.classifier
        self.module: nn.Module = differentiable_model(inputs.classifier, surrogates=False)
        self.declared_random = isinstance(inputs.classifier, RandomizedClassifier)
        self.device: torch.device = inputs.classifier.device
        # Attacks compute in float32, or in the model's precision if that is higher.
        self.dtype = torch.promote_types(torch.float32, model_dtype(inputs.classifier.model))
        # Plain ART classifiers accept images of their model's own type only.
        self.array_dtype = np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)
        self._x, self._y = inputs.x, inputs.y

    def tensors(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels on the model's device."""
        x = torch.from_numpy(self._x[indices]).to(self.device, self.dtype)
        return x, torch.from_numpy(self._y[indices]).to(self.device)

    @cached_property
    def one_output(self) -> bool:
        """Whether it is one of ART's binary classifiers with a single output."""
        return np.asarray(self.classifier.predict(self._x[:1].astype(self.array_dtype))).shape[1:] in {(), (1,)}

    @cached_property
    def one_probability(self) -> bool:
        """Whether that single output is a probability, as its loss says."""
        return self.one_output and SingleOutput.of(self.classifier).check() == "probability"

    def predict(self, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
        """Outputs of the classifier's own `predict`, one column per class; see `outputs.class_scores`."""
        return predicted_scores(self.classifier, x.astype(self.array_dtype), batch_size)

    def is_correct(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Which of the images, versions of those at `indices`, `predict` assigns to their label."""
        outputs = self.predict(x) if len(x) else np.zeros((0, 2))
        correct: np.ndarray = outputs.argmax(axis=1) == self._y[indices]
        return correct

    @cached_property
    def outputs(self) -> np.ndarray:
        """Outputs of `predict` on all images."""
        return self.predict(self._x)

    @cached_property
    def correct(self) -> np.ndarray:
        """Which images are classified correctly."""
        return self.is_correct(self._x, np.arange(len(self._x)))

    @cached_property
    def correct_indices(self) -> np.ndarray:
        """Indices of the correctly classified images, which an attack has to break."""
        return np.flatnonzero(self.correct)

    @cached_property
    def output_spread(self) -> float:
        """Largest difference between repeated outputs on the same images, relative to the scale of the outputs."""
        x = self._x[:128]
        # Small batches: a model that draws once per pass from few values could easily draw the same one twice.
        repeats = np.stack([self.predict(x, batch_size=16) for _ in range(6)])
        return float((repeats.max(axis=0) - repeats.min(axis=0)).max() / output_scale(repeats[0]))

    @property
    def is_random(self) -> bool:
        """Whether repeated predictions on the same images differ."""
        return not self.output_spread <= SAME_OUTPUTS


def output_scale(outputs: np.ndarray) -> float:
    """A typical size of outputs `(n, C)`, above 0: their range over the classes, averaged over the images."""
    return float(np.ptp(np.nan_to_num(outputs), axis=-1).mean()) + 1e-12
