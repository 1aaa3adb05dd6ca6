"""Models that optimise in their forward pass, or that treat images outside their data differently."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import grad as func_grad
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.planted_base import planted, seeded

INNER = "The forward pass optimises the image before it classifies it."
GATED = "Images that are not of the data are answered in another way."


def entropy(logits: torch.Tensor) -> torch.Tensor:
    return -(F.softmax(logits, 1) * F.log_softmax(logits, 1)).sum()


def own_label_loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    logits = model(x)
    return F.cross_entropy(logits, logits.argmax(1), reduction="sum")


class Purified(nn.Module):
    """Sign steps towards a surer prediction; through them, or past them."""

    def __init__(self, base: nn.Module, detached: bool, steps: int = 4, size: float = 0.03) -> None:
        super().__init__()
        self.base = base
        self.detached = detached
        self.steps = steps
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        through = torch.is_grad_enabled() and not self.detached
        with torch.enable_grad():
            pure = x if x.requires_grad else x.detach().requires_grad_()
            for _ in range(self.steps):
                (slope,) = torch.autograd.grad(entropy(self.base(pure)), pure, create_graph=through)
                # A soft sign, so that the second derivatives of the steps are not zero.
                pure = (pure - self.size * torch.tanh(1e3 * slope)).clamp(0, 1)
        logits: torch.Tensor = self.base(pure.detach() if self.detached else pure)
        return logits


class PurifiedByBackward(nn.Module):
    """`loss.backward()` on a leaf of its own; what is left of the graph goes around the purification."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pure = x.detach().clone()
        with torch.enable_grad():
            for _ in range(5):
                leaf = pure.detach().requires_grad_()
                own_label_loss(self.base, leaf).backward()
                pure = (leaf.detach() - 0.03 * leaf.grad.sign()).clamp(0, 1)
        logits: torch.Tensor = self.base(pure)
        return logits


class AntiAdversary(nn.Module):
    """Moves the image away from the boundary before it is judged (Alfarra et al. 2022)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = func_grad(lambda image: own_label_loss_traced(self.base, image, self.base(x).argmax(1)))
        moved = x.detach()
        for _ in range(3):
            moved = moved - 0.05 * slope(moved).sign()
        logits: torch.Tensor = self.base(x + (moved - x).detach())
        return logits


def own_label_loss_traced(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), labels, reduction="sum")


class PurifiedByOptimizer(nn.Module):
    """Adam on the image, towards little total variation near the image."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            pure = nn.Parameter(x.detach().clone())
            optimizer = torch.optim.Adam([pure], lr=0.03)
            for _ in range(6):
                optimizer.zero_grad()
                variation = (pure.diff(dim=2).abs().sum() + pure.diff(dim=3).abs().sum()) * 0.15
                (variation + 4 * (pure - x.detach()).pow(2).sum() + entropy(self.base(pure))).backward()
                optimizer.step()
        logits: torch.Tensor = self.base(pure.detach())
        return logits


class PurifiedBySearch(nn.Module):
    """The surest of several fixed variants of the image: an optimisation without any derivative."""

    def __init__(self, base: nn.Module, variants: int = 12) -> None:
        super().__init__()
        self.base = base
        steps = torch.randn(variants, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign() * 0.1
        self.register_buffer("steps", torch.cat([torch.zeros(1, 1, 8, 8), steps]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = torch.stack([self.base(x + step) for step in self.steps])
            surest = F.softmax(logits, 2).amax(2).argmax(0)
        return logits[surest, torch.arange(len(x))] + 0 * self.base(x)


class Autoencoder(nn.Module):
    """The latent code of the image is searched by gradient descent (as in Defense-GAN, Samangouei et al. 2018)."""

    def __init__(self, base: nn.Module, digits: Dataset) -> None:
        super().__init__()
        self.base = base
        flat = torch.from_numpy(digits.x_train).flatten(1)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("basis", torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:24])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        target = x.detach().flatten(1).to(self.mean.dtype)
        code = torch.zeros(len(x), len(self.basis))
        with torch.enable_grad():
            for _ in range(15):
                code = code.detach().requires_grad_()
                error = (torch.sigmoid(8 * (self.mean + code @ self.basis) - 4) - target).pow(2).sum()
                code = code - 0.2 * torch.autograd.grad(error, code)[0]
        pure = torch.sigmoid(8 * (self.mean + code.detach() @ self.basis) - 4)
        logits: torch.Tensor = self.base(pure.view_as(x).to(x.dtype))
        return logits


class Gate(nn.Module):
    """Images off the grid of grey values are answered by the nearest training image's label."""

    def __init__(self, base: nn.Module, digits: Dataset) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("images", torch.from_numpy(digits.x_train).flatten(1))
        self.register_buffer("answers", 10 * F.one_hot(torch.from_numpy(digits.y_train), 10).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strange = ((x * 16 - (x * 16).round()).abs() > 1e-3).flatten(1).any(1)
        nearest = torch.cdist(x.detach().flatten(1), self.images).argmin(1)
        logits: torch.Tensor = self.base(x)
        return torch.where(strange[:, None], self.answers[nearest], logits)


class ScaledGate(nn.Module):
    """Logits of unsure predictions are blown up, so that attacks lose the gradient where they get near."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.decoy = seeded(lambda: nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x)
        unsure = (logits.topk(2).values.diff(dim=1).abs() < 3).to(logits.dtype)
        label = F.one_hot(logits.argmax(1), 10).to(logits.dtype)
        return logits * (1 - unsure) + unsure * (200 * label + self.decoy(x.flatten(1)))


FAULTS = [
    planted("purification", INNER, lambda d, b: Purified(b, detached=True)),
    planted("purification_of_sensreg_classifier", INNER, lambda d, b: Purified(b, detached=True), SensRegClassifier),
    planted("purification_with_gradient", INNER, lambda d, b: Purified(b, detached=False, steps=3)),
    planted("purification_by_backward", INNER, lambda d, b: PurifiedByBackward(b)),
    planted("purification_by_func_grad", INNER, lambda d, b: AntiAdversary(b)),
    planted("purification_by_optimizer", INNER, lambda d, b: PurifiedByOptimizer(b)),
    planted("purification_by_search", INNER, lambda d, b: PurifiedBySearch(b)),
    planted("purification_by_latent_code", INNER, lambda d, b: Autoencoder(b, d)),
    planted("gate_off_the_grid", GATED, lambda d, b: Gate(b, d)),
    planted("gate_near_the_boundary", GATED, lambda d, b: ScaledGate(b)),
]
