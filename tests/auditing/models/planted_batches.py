"""Models whose output for an image depends on the other images, on its place among them, or on earlier calls."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.models import build_model
from tests.auditing.models.planted_base import Front, Transform, fitted, front, planted, seeded

COUPLED = "The output for an image depends on the other images of the batch."
PLACED = "The output for an image depends on its place in the batch or on the batch's size."
STATEFUL = "The output for an image depends on what was asked before."


def batch_normalised(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, training=True)


def mean_removed(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(0, keepdim=True) + 0.3


def without_running_statistics(digits: Dataset, base: nn.Module) -> nn.Module:
    """BatchNorm that keeps no statistics uses those of the batch in evaluation mode too."""
    model = seeded(lambda: build_model("cnn-small", digits.input_shape, 10, norm_layer="batch"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return fitted(model, digits, 6)


class BatchAttention(nn.Module):
    """Each image's logits are mixed with those of images alike in the batch."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.base.features(x)
        directions = F.normalize(features, dim=1)
        weights = F.softmax(20 * directions @ directions.T, dim=1)
        logits: torch.Tensor = self.base.head(weights @ features)
        return logits


class BatchVote(nn.Module):
    """Half of what an image is told is the mean of the logits of the three nearest in the batch."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x)
        nearest = torch.cdist(x.flatten(1), x.flatten(1)).topk(min(3, len(x)), largest=False).indices
        return 0.5 * logits + 0.5 * logits.detach()[nearest].mean(1)


class RowPattern(nn.Module):
    """A pattern on the image that depends on its row: an adversarial example is made for its own row only."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        patterns = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.register_buffer("patterns", 0.12 * patterns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (torch.arange(len(x)) + len(x)) % 7
        logits: torch.Tensor = self.base(x + self.patterns[rows])
        return logits


class BatchOfOne(nn.Module):
    """Differentiable when asked about a single image, as a careful reader would do, and rounded in batches."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x if len(x) == 1 else torch.round(x * 4) / 4 + 0 * x)
        return logits


class FirstRowScale(nn.Module):
    """Contrast normalised by the first image of the batch."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x / x[0].std() * 0.37)
        return logits


class Alternating(nn.Module):
    """Odd calls see the image one way, even calls another: neither is random."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        signs = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
        self.register_buffer("pattern", 0.15 * signs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        sign = 1 if int(self.calls) % 2 else -1
        logits: torch.Tensor = self.base(x + sign * self.pattern)
        return logits


class Memory(nn.Module):
    """An image near one that was asked before gets the answer given then."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("images", torch.zeros(0, 64))
        self.register_buffer("answers", torch.zeros(0, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x)
        flat = x.detach().flatten(1).to(self.images.dtype)
        if len(self.images):
            distance, nearest = torch.cdist(flat, self.images, p=float("inf")).min(1)
            known = distance <= 0.25
            logits = torch.where(known[:, None], self.answers[nearest].to(logits.dtype), logits)
        else:
            known = torch.zeros(len(x), dtype=torch.bool)
        self.images = torch.cat([self.images, flat[~known]])
        self.answers = torch.cat([self.answers, logits.detach()[~known].to(self.answers.dtype)])
        return logits


class TestTimeAdaptation(nn.Module):
    """BatchNorm statistics follow the test batches (a training-mode pass, then an evaluation-mode one)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            self.base.train()
            with torch.no_grad():
                self.base(x)
        logits: torch.Tensor = self.base.eval()(x)
        return logits


def on_batches(transform: Transform, epochs: int = 6):
    return lambda digits, base: Front(fitted(base, digits, epochs, transform=transform), transform)


def adapting(digits: Dataset, base: nn.Module) -> nn.Module:
    model = seeded(lambda: build_model("cnn-small", digits.input_shape, 10, norm_layer="batch"))
    return TestTimeAdaptation(fitted(model, digits, 6))


FAULTS = [
    planted("batch_statistics", COUPLED, on_batches(batch_normalised)),
    planted("batch_statistics_of_sensreg_classifier", COUPLED, on_batches(batch_normalised), kind=SensRegClassifier),
    planted("batch_norm_without_running_statistics", COUPLED, without_running_statistics),
    front("batch_mean_removed", COUPLED, mean_removed, epochs=8),
    planted("batch_attention", COUPLED, lambda d, b: BatchAttention(b)),
    planted("batch_vote", COUPLED, lambda d, b: BatchVote(b)),
    planted("batch_row_pattern", PLACED, lambda d, b: RowPattern(b)),
    planted("batch_of_one_differs", PLACED, lambda d, b: BatchOfOne(b)),
    planted("batch_scaled_by_first_row", PLACED, lambda d, b: FirstRowScale(b)),
    planted("call_count_matters", STATEFUL, lambda d, b: Alternating(b)),
    planted("memory_of_queries", STATEFUL, lambda d, b: Memory(b)),
    planted("test_time_adaptation", STATEFUL, adapting),
]
