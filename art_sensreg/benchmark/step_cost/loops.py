"""What `art-sensreg step-cost` divides by: models with random data, and plain PyTorch loops on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.datasets import Dataset

CLASSES = 10
EPS = 0.1  # of the adversarial trainers: the time of a step does not depend on it
PREDICT_IMAGES, PREDICT_BATCH, GRADIENT_IMAGES = 2048, 128, 128
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Run = Callable[[], object]
"""Something to time. If it returns a `SetUp`, these seconds of it are not counted."""
Step = Callable[[nn.Module, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class SetUp:
    """Seconds before the first step of a training."""

    seconds: float


@dataclass(frozen=True)
class TimedModel:
    """
    A model to time.

    :param name: Name on the command line.
    :param architecture: Name in `art_sensreg.models`.
    :param input_shape: Channels, height, width.
    :param activation: `relu` or `gelu`.
    :param norm_layer: `none` or `batch`.
    """

    name: str
    architecture: str
    input_shape: tuple[int, int, int]
    activation: str = "relu"
    norm_layer: str = "none"


MODELS = {
    model.name: model
    for model in (
        TimedModel("mlp", "mlp", (1, 28, 28)),
        TimedModel("cnn-small", "cnn-small", (1, 28, 28)),
        TimedModel("cnn-small-bn", "cnn-small", (1, 28, 28), norm_layer="batch"),
        TimedModel("resnet-gelu", "resnet-small", (3, 32, 32), activation="gelu"),
    )
}


@dataclass(frozen=True)
class Bench:
    """
    What every variant of a model gets: the same data, initial weights, optimizer and batch size. The device is that of
    the plain loops; ART's classifiers use it as torch's current one.
    """

    spec: TrainingSpec
    device: torch.device
    precision: str

    @property
    def x(self) -> np.ndarray:
        """Training images."""
        return self.spec.dataset.x_train

    @property
    def y(self) -> np.ndarray:
        """Class indices of the training images."""
        return self.spec.dataset.y_train

    def limited(self, steps: int) -> Bench:
        """The same with a shorter epoch."""
        dataset = self.spec.dataset.limited(train_size=steps * self.spec.batch_size)
        return replace(self, spec=replace(self.spec, dataset=dataset))

    def require_float32(self) -> None:
        """Raise `NotApplicable` in other precisions."""
        if self.precision != "float32":
            raise NotApplicable(f"it trains in float32 only, and the plain loop of this run is in {self.precision}")


def make_bench(model: TimedModel, batch_size: int, steps: int, device: str, precision: str = "float32") -> Bench:
    """
    Draw images and labels for a model: only the time matters, so they are random. Those of a class share dark and light
    pixels: of what cannot be learned, or not against the adversaries, penalties make a constant network, on which they
    have no effect.

    Example:
    >>> from art_sensreg.benchmark.step_cost.loops import MODELS, make_bench
    >>> make_bench(MODELS["mlp"], batch_size=8, steps=3, device="cpu").x.shape
    (24, 1, 28, 28)
    """
    rng = np.random.default_rng(0)
    light = rng.integers(2, size=(CLASSES, *model.input_shape)).astype(np.float32)
    y_train, y_test = (rng.permutation(n) % CLASSES for n in (steps * batch_size, PREDICT_IMAGES))
    x_train, x_test = (
        0.8 * light[y] + 0.2 * rng.random((len(y), *model.input_shape), dtype=np.float32) for y in (y_train, y_test)
    )
    dataset = Dataset(name="random", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    spec = TrainingSpec(
        dataset=dataset,
        model=model.architecture,
        activation=model.activation,
        norm_layer=model.norm_layer,
        epochs=1,
        batch_size=batch_size,
        learning_rate=1e-3,
        eps=EPS,
        device=torch.device(device).type,
    )
    return Bench(spec, torch.device(device), precision)


def cross_entropy_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits of a plain step."""
    logits = model(x)
    return functional.cross_entropy(logits, y), logits


def hoffman_penalty(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """
    Estimate `1/2 ||dz/dx||_F^2`, mean over the batch, by one random projection, written as plainly as its paper has it.

    | Paper link: https://arxiv.org/abs/1908.02729 (Hoffman, Roberts, Yaida 2019, algorithm 1, n_proj = 1)
    """
    n, classes = logits.shape
    vectors = functional.normalize(torch.randn_like(logits), dim=1)
    (projected,) = torch.autograd.grad(logits, x, vectors, create_graph=True)
    return 0.5 * classes * projected.pow(2).sum() / n


def hoffman_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits of a step with Hoffman's penalty, at the weight that `JacobianPenalty` has."""
    x.requires_grad_()
    loss, logits = cross_entropy_step(model, x, y)
    return loss + 0.1 * hoffman_penalty(logits, x), logits


def fgsm_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits of a step on FGSM adversarials from a random start (Wong et al. 2020, arXiv 2001.03994)."""
    start = torch.empty_like(x).uniform_(-EPS, EPS)
    noisy = (x + start).requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy_step(model, noisy, y)[0], noisy)
    delta = (start + 1.25 * EPS * gradient.sign()).clamp_(-EPS, EPS)
    return cross_entropy_step(model, (x + delta).clamp_(0, 1), y)


def epoch_loop(bench: Bench, step: Step = cross_entropy_step) -> Run:
    """One epoch as one would write it in PyTorch: the unit of the training variants."""
    model = bench.spec.new_model().to(bench.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=bench.spec.learning_rate)
    x, y = torch.from_numpy(bench.x).to(bench.device), torch.from_numpy(bench.y).to(bench.device)
    lower = bench.precision != "float32"
    scaler = torch.amp.GradScaler(bench.device.type) if bench.precision == "float16" else None

    def run() -> tuple[float, float]:
        loss_sum, correct = torch.zeros((), device=bench.device), torch.zeros((), device=bench.device)
        for batch in torch.randperm(len(x)).to(bench.device).split(bench.spec.batch_size):
            images, labels = x.index_select(0, batch), y.index_select(0, batch)
            # Entering autocast costs a few microseconds even where it does nothing.
            with torch.autocast(bench.device.type, PRECISIONS[bench.precision]) if lower else contextlib.nullcontext():
                loss, logits = step(model, images, labels)
            optimizer.zero_grad()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            loss_sum += loss.detach() * len(batch)
            correct += (logits.argmax(1) == labels).sum()
        return loss_sum.item() / len(x), correct.item() / len(x)

    return run


def predict_loop(bench: Bench) -> Run:
    """The unit of `predict`: a `no_grad` loop over the same batches, from numpy to numpy."""
    model, x = bench.spec.new_model().to(bench.device).eval(), bench.spec.dataset.x_test

    def run() -> np.ndarray:
        with torch.no_grad():
            batches = [torch.from_numpy(x[i : i + PREDICT_BATCH]) for i in range(0, len(x), PREDICT_BATCH)]
            logits: np.ndarray = torch.cat([model(batch.to(bench.device)) for batch in batches]).cpu().numpy()
            return logits

    return run


def gradient_loop(bench: Bench) -> Run:
    """The unit of `loss-gradient`: `autograd.grad` with respect to the input alone, from numpy to numpy."""
    model = bench.spec.new_model().to(bench.device).eval()
    x, y = bench.spec.dataset.x_test[:GRADIENT_IMAGES], bench.spec.dataset.y_test[:GRADIENT_IMAGES]

    def run() -> np.ndarray:
        inputs = torch.from_numpy(x).to(bench.device).requires_grad_()
        loss = functional.cross_entropy(model(inputs), torch.from_numpy(y).to(bench.device))
        gradient: np.ndarray = torch.autograd.grad(loss, inputs)[0].cpu().numpy()
        return gradient

    return run
