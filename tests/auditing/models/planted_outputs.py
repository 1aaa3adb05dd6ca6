"""Honest models whose outputs are scaled, saturated, squashed or cut."""

from __future__ import annotations

import numpy as np
import torch
from art.defences.postprocessor import ClassLabels, GaussianNoise, HighConfidence, ReverseSigmoid, Rounded
from art.defences.postprocessor.postprocessor import Postprocessor
from torch import nn
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.planted_base import Back, Planted, fitted, planted, seeded

SCALED = "Logits are so large that the cross-entropy's gradient is zero in float32."
PROBABILITIES = "The model returns probabilities and no logits, so that the cross-entropy saturates."
SATURATED = "Outputs saturate: they are constant near every image."
POSTPROCESSED = "Postprocessing makes scores useless to attacks that only query."


def back(name: str, fault: str, transform, kind=None) -> Planted:
    kwargs = {} if kind is None else {"kind": kind}
    return planted(name, fault, lambda d, b: Back(b, transform), **kwargs)


def scaled(factor: float):
    return lambda z: z * factor


def softmax(z: torch.Tensor) -> torch.Tensor:
    return F.softmax(z, 1)


def normalised_sigmoid(z: torch.Tensor) -> torch.Tensor:
    shares = torch.sigmoid(z)
    return shares / shares.sum(1, keepdim=True)


def sparse_softmax(z: torch.Tensor) -> torch.Tensor:
    """Probabilities below a hundredth are exactly zero, as is their gradient."""
    shares = F.relu(F.softmax(2 * z, 1) - 0.01)
    return shares / shares.sum(1, keepdim=True)


def label_only(z: torch.Tensor) -> torch.Tensor:
    return F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)


def label_only_with_gradient(z: torch.Tensor) -> torch.Tensor:
    """A hard label that still carries a graph, for attacks that look whether there is one."""
    return (z == z.amax(1, keepdim=True)).to(z.dtype) * 10 + 0 * z


def scaled_in_the_head(digits: Dataset, base: nn.Module) -> nn.Module:
    """The factor in the weights, where no wrapper shows it."""
    with torch.no_grad():
        base.head.weight.mul_(1000)
        base.head.bias.mul_(1000)
    return base


def distilled(digits: Dataset, base: nn.Module) -> nn.Module:
    """Trained on soft labels at temperature 100 and used at 1 (Papernot et al. 2016; broken by Carlini, Wagner)."""
    with torch.no_grad():
        base.head.weight.div_(2)
    student = fitted(base, digits, 12, loss=lambda z, y: F.cross_entropy(z / 100, y, label_smoothing=0.02), lr=1e-2)
    return student


def trained_hot(digits: Dataset, base: nn.Module) -> nn.Module:
    """An MLP trained at temperature 100 from scratch."""
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    return fitted(net, digits, 15, loss=lambda z, y: F.cross_entropy(z / 100, y), lr=2e-2)


def one_against_all(digits: Dataset, base: nn.Module) -> nn.Module:
    """The model fine-tuned so that each logit's sign says whether the image is of that class."""

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(z, F.one_hot(y, 10).float())

    return fitted(base, digits, 8, loss=loss)


class Votes(nn.Module):
    """Counted labels of five models, beside a path that autograd can follow to nowhere."""

    def __init__(self, digits: Dataset, base: nn.Module) -> None:
        super().__init__()
        mlps = [
            seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)), seed)
            for seed in range(1, 5)
        ]
        self.models = nn.ModuleList([base, *(fitted(mlp, digits, 8) for mlp in mlps)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        votes = torch.stack([label_only(model(x)) for model in self.models]).sum(0)
        return votes + 1e-3 * x.flatten(1)[:, :10]


class HardLabels(Postprocessor):
    """One-hot labels (ART's own `ClassLabels` sets the columns of all rows' labels in every row)."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, preds: np.ndarray) -> np.ndarray:
        return np.eye(preds.shape[1], dtype=np.float32)[preds.argmax(1)]


class SoftmaxThenReverseSigmoid(ReverseSigmoid):
    """The defence as its authors use it: on probabilities."""

    def __call__(self, preds: np.ndarray) -> np.ndarray:
        shares = np.exp(preds - preds.max(1, keepdims=True))
        return super().__call__(shares / shares.sum(1, keepdims=True)).astype(np.float32)


def rounded() -> Rounded:
    return Rounded(decimals=1)


def high_confidence() -> HighConfidence:
    return HighConfidence(cutoff=4.0)


def noisy_scores() -> GaussianNoise:
    return GaussianNoise(scale=2.0)


def after(name: str, make) -> Planted:
    """A postprocessor of ART behind the honest model; made for each classifier anew."""

    def build(digits: Dataset, base: nn.Module):
        return planted(name, POSTPROCESSED, lambda d, b: b, postprocessing_defences=make()).build(digits, base)

    return Planted(name, POSTPROCESSED, build)


FAULTS = [
    back("logits_times_100", SCALED, scaled(100.0)),
    back("logits_times_1000", SCALED, scaled(1000.0)),
    back("logits_times_100000", SCALED, scaled(1e5)),
    back("logits_times_1000_of_sensreg_classifier", SCALED, scaled(1000.0), SensRegClassifier),
    planted("logits_times_1000_in_the_head", SCALED, scaled_in_the_head),
    back(
        "logits_divided_by_fifty",
        "Logits are so small that cross-entropy pulls at all classes alike.",
        scaled(0.02),
    ),
    back(
        "logits_divided_by_a_trillion", "Logits are so small that the loss does not change in float32.", scaled(1e-12)
    ),
    planted("votes_of_several_models", "Labels of several models are counted, which has no gradient.", Votes),
    back("logits_cubed", SCALED, lambda z: z**3),
    back("softmax_output", PROBABILITIES, softmax),
    back("softmax_output_of_sensreg_classifier", PROBABILITIES, softmax, SensRegClassifier),
    planted("softmax_layer", PROBABILITIES, lambda d, b: nn.Sequential(b, nn.Softmax(dim=1))),
    back("softmax_sharpened", PROBABILITIES, lambda z: F.softmax(10 * z, 1)),
    back("softmax_clamped", PROBABILITIES, lambda z: F.softmax(z, 1).clamp(0.05, 0.95)),
    back("softmax_times_ten", PROBABILITIES, lambda z: 10 * F.softmax(5 * z, 1)),
    back("softmax_centred", PROBABILITIES, lambda z: F.softmax(3 * z, 1) - 0.1),
    back("sigmoid_normalised", PROBABILITIES, normalised_sigmoid),
    back("softmax_sparse", PROBABILITIES, sparse_softmax),
    back("label_only", "The model returns labels without a gradient.", label_only),
    back("label_only_with_gradient", "The model returns labels with a zero gradient.", label_only_with_gradient),
    planted("saturating_sigmoid", SATURATED, lambda d, b: Back(one_against_all(d, b), lambda z: torch.sigmoid(50 * z))),
    planted("saturating_tanh", SATURATED, lambda d, b: Back(one_against_all(d, b), lambda z: 5 * torch.tanh(30 * z))),
    back("saturating_margin", SATURATED, lambda z: 8 * torch.tanh(20 * (z - z.topk(2).values.mean(1, keepdim=True)))),
    back("saturating_hardtanh", SATURATED, lambda z: F.hardtanh(z - z.topk(2).values.mean(1, keepdim=True))),
    planted("defensive_distillation", SCALED, distilled),
    planted("trained_at_temperature_100", SCALED, trained_hot),
    after("reverse_sigmoid", SoftmaxThenReverseSigmoid),
    planted(
        "reverse_sigmoid_of_softmax_layer",
        POSTPROCESSED,
        lambda d, b: Back(b, softmax),
        postprocessing_defences=ReverseSigmoid,
    ),
    after("rounded_scores", rounded),
    after("class_labels", ClassLabels),
    after("hard_labels", HardLabels),
    after("high_confidence_only", high_confidence),
    after("noisy_scores", noisy_scores),
]
