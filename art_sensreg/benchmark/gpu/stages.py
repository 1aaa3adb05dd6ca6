"""The stages of `benchmarks/gpu.py`: each measures one thing and returns what goes into its part of `gpu.json`."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from art_sensreg.adversaries import FGSMRS, PGD, TRADES, CarriedAdversary
from art_sensreg.attacks import ProjectedAscent
from art_sensreg.benchmark.gpu.problems import (
    MODELS,
    StepsCounted,
    make_classifier,
    separable_images,
    train,
    waits_counted,
)
from art_sensreg.benchmark.gpu.records import Row
from art_sensreg.benchmark.step_cost.loops import epoch_loop, make_bench
from art_sensreg.benchmark.step_cost.memory import cuda_peak
from art_sensreg.benchmark.step_cost.timing import seconds_of
from art_sensreg.benchmark.step_cost.variants import GPU_VARIANTS
from art_sensreg.penalties import FisherRaoPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.training.validation import ValidationAttack
from art_sensreg.utils.precision import full_float32

GPU = torch.device("cuda")


@dataclass(frozen=True, kw_only=True)
class Size:
    """
    How much is measured.

    :param timed: Models, batch sizes and precisions of the step cost.
    :param steps: Steps of the shorter of two timed epochs; the other has three times as many.
    :param repeats: Timed repeats.
    :param images: Images of the other stages.
    """

    timed: tuple[tuple[str, int, str], ...] = (
        ("cnn-small", 128, "float32"),
        ("preact-resnet18", 128, "bfloat16"),
    )
    steps: int = 15
    repeats: int = 2
    images: int = 2560


REDUCED = Size(timed=(("cnn-small", 8, "float32"), ("cnn-small-bn", 8, "bfloat16")), steps=2, repeats=1, images=80)
"""For a device that is emulated: that every stage runs, not how fast."""


def waits(size: Size) -> list[Row]:
    """How often the host waits for the GPU in a training step, and in a step of an attack."""
    sr, jr = SensitivityPenalty(sigma=0.3), JacobianPenalty()
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "sr+jr": {"penalties": [sr, jr]},
        "sr, sigma from a range": {"penalties": [SensitivityPenalty(sigma=(0.1, 0.3))]},
        "jr by projection": {"penalties": [JacobianPenalty(estimator="projection")]},
        "jr exact": {"penalties": [JacobianPenalty(estimator="exact")]},
        "fire": {"penalties": [FisherRaoPenalty(eps=0.1, eps_step=0.05, max_iter=2)]},
        "fgsm-rs and sr": {"penalties": [sr], "adversary": FGSMRS(eps=0.1)},
        "pgd and sr": {"penalties": [sr], "adversary": PGD(eps=0.1, max_iter=2)},
        "trades": {"adversary": TRADES(eps=0.1, max_iter=2)},
        "carried": {"adversary": CarriedAdversary(eps=0.1)},
        "carried, sr+jr": {"penalties": [sr, jr], "adversary": CarriedAdversary(eps=0.1)},
        "free, sr+jr": {"penalties": [sr, jr], "adversary": CarriedAdversary(eps=0.1, free=True, pair="adversarial")},
        "weight average": {"penalties": [sr], "ema": 0.99},
        "clipped gradient": {"penalties": [sr], "max_grad_norm": 1.0},
        "float16": {"penalties": [sr], "precision": "float16"},
    }
    batch = size.images // 8
    data = separable_images(4 * batch, MODELS["cnn-small-bn"].input_shape)
    records: list[Row] = []
    for name, case in cases.items():
        counted = StepsCounted()
        train(make_classifier("cnn-small-bn", "gpu"), data, batch_size=batch, nb_epochs=2, callbacks=[counted], **case)
        # The first epoch warms up: of a graph's first backward pass, for one.
        steps = counted.steps[len(counted.steps) // 2 :]
        worst = max(steps, key=len)
        records.append({"what": name, "waits": len(worst), "where": sorted(set(worst))})
    for steps_more in (1, 6):
        classifier = make_classifier("cnn-small", "gpu")
        images, labels = separable_images(16, MODELS["cnn-small"].input_shape)
        attack = ProjectedAscent(classifier, eps=0.01, max_iter=steps_more)
        attack.generate(images, labels)
        with waits_counted() as places:
            attack.generate(images, labels)
        records.append({"what": f"an attack of {steps_more} steps, in all", "waits": len(places), "where": []})
    return records


def step_cost(size: Size) -> list[Row]:
    """Time of a step over that of a plain PyTorch loop, and the peak memory of an epoch."""
    records: list[Row] = []
    for model, batch, kind in size.timed:
        whole = make_bench(MODELS[model], batch, 3 * size.steps, "cuda", kind)
        plain = epoch_loop(whole)
        plain()
        for variant in GPU_VARIANTS:
            short, long = (variant.prepare(bench) for bench in (whole.limited(size.steps), whole))
            short()
            long()
            times = [[seconds_of(run, GPU) for run in (plain, short, long)] for _ in range(size.repeats)]
            unit, less, more = (median(seconds) for seconds in zip(*times, strict=True))
            step = (more - less) / (2 * size.steps)  # without what `fit` does once
            records.append(
                {
                    "model": model,
                    "batch_size": batch,
                    "precision": kind,
                    "variant": variant.name,
                    "milliseconds": 1000 * step,
                    "ratio": step / (unit / (3 * size.steps)),
                    "seconds_once": less - size.steps * step,
                    "megabytes": cuda_peak(long, GPU),
                }
            )
    return records


def agreement(size: Size) -> list[Row]:
    """
    How far the GPU's numbers are from the CPU's, relative to the largest: with TF32 as it is set, and without.

    What draws no random numbers must agree to rounding; trainings draw other noise on a GPU, so their accuracies are
    told side by side.
    """
    records: list[Row] = []
    images, labels = separable_images(64, MODELS["cnn-small"].input_shape)
    one_hot = np.eye(10, dtype=np.float32)[labels]
    ours, theirs = (make_classifier("cnn-small", device) for device in ("gpu", "cpu"))
    x = torch.from_numpy(images)

    def exact(classifier: Any) -> np.ndarray:
        value = JacobianPenalty(estimator="exact")(classifier.model, x.to(classifier.device))
        return value.detach().cpu().numpy()

    def attacked(classifier: Any) -> np.ndarray:
        return ProjectedAscent(classifier, eps=0.1, max_iter=5).generate(images, labels)

    functions: dict[str, Callable[[Any], np.ndarray]] = {
        "predict": lambda c: c.predict(images),
        "loss_gradient": lambda c: c.loss_gradient(images, one_hot),
        "exact Jacobian penalty": exact,
        "images of an attack of 5 steps": attacked,
    }
    for name, function in functions.items():
        expected = function(theirs)
        scale = float(np.abs(expected).max())
        usual = float(np.abs(function(ours) - expected).max()) / scale
        with full_float32(GPU):
            without = float(np.abs(function(ours) - expected).max()) / scale
        records.append({"what": name, "difference": usual, "difference_without_tf32": without})
    data = separable_images(size.images, MODELS["cnn-small"].input_shape)
    held_out = separable_images(200, MODELS["cnn-small"].input_shape, seed=1)
    for name, penalties in (("plain", []), ("sr+jr", [SensitivityPenalty(sigma=0.3), JacobianPenalty()])):
        scores = []
        for device in ("gpu", "cpu"):
            history = train(
                make_classifier("cnn-small", device), data, penalties, fit={"validation_data": held_out},
                batch_size=size.images // 10, nb_epochs=3, validation_attack=ValidationAttack(eps=0.05),
            )  # fmt: skip
            scores.append([history[-1][entry] for entry in ("loss", "val_accuracy", "val_robust_accuracy")])
        records.append({"what": f"trained, {name}: loss, accuracy, under PGD", "gpu": scores[0], "cpu": scores[1]})
    return records


def resume(size: Size) -> list[Row]:
    """Whether a run that was stopped ends with the bits of one that was not, and so does the same run again."""
    data = separable_images(size.images, MODELS["cnn-small"].input_shape)
    penalties = [SensitivityPenalty(sigma=0.3), JacobianPenalty()]

    def weights(epochs: tuple[int, ...]) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            for count in epochs:
                classifier = make_classifier("cnn-small", "gpu")
                train(
                    classifier, data, penalties, fit={"checkpoint_dir": folder, "resume": True},
                    batch_size=size.images // 5, nb_epochs=count,
                )  # fmt: skip
        return [parameter.detach().cpu().numpy() for parameter in classifier.model.parameters()]

    torch.backends.cudnn.deterministic = True
    whole = weights((3,))
    records: list[Row] = []
    for name, epochs in (("once more", (3,)), ("stopped after an epoch and resumed", (1, 3))):
        found = weights(epochs)
        largest = max(float(np.abs(one - other).max()) for one, other in zip(whole, found, strict=True))
        records.append({"what": name, "largest_difference": largest, "same_bits": largest == 0.0})
    return records


def precision(size: Size) -> list[Row]:
    """The penalties in bfloat16 and TF32 against float32, by the size of noise or a step; a training in bfloat16."""
    model = make_classifier("cnn-small", "gpu").model.to(GPU)
    images, labels = (torch.from_numpy(part).to(GPU) for part in separable_images(64, MODELS["cnn-small"].input_shape))
    x = images.requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), labels), x)
    noise = torch.randn(x.shape, generator=torch.Generator(GPU).manual_seed(0), device=GPU)
    records: list[Row] = []

    def difference(direction: torch.Tensor, size: float) -> float:
        with torch.no_grad():
            clean, moved = model(x).float(), model(x + size * direction).float()
        return float(functional.mse_loss(moved, clean)) / size**2

    directions = {"noise": noise, "step along the gradient's sign": gradient.sign()}
    for (what, direction), length in itertools.product(directions.items(), (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)):
        with full_float32(GPU):
            expected = difference(direction, length)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            low = difference(direction, length)
        torch.set_float32_matmul_precision("high")
        middle = difference(direction, length)
        torch.set_float32_matmul_precision("highest")
        errors = {"bfloat16": low / expected - 1, "tf32": middle / expected - 1}
        records.append({"what": what, "size": length, **errors})
    data = separable_images(size.images, MODELS["cnn-small"].input_shape)
    penalties = [SensitivityPenalty(sigma=0.3), JacobianPenalty()]
    for name in ("float32", "bfloat16", "float16"):
        classifier, history = make_classifier("cnn-small", "gpu"), list[dict[str, float]]()

        def run(classifier: Any = classifier, history: Any = history, name: str = name) -> None:
            history += train(classifier, data, penalties, batch_size=size.images // 10, nb_epochs=3, precision=name)

        seconds = seconds_of(run, GPU)
        records.append({"training": name, "seconds": seconds, **{k: history[-1][k] for k in ("loss", "accuracy")}})
    return records


STAGES: dict[str, tuple[Callable[[Size], list[Row]], int]] = {
    "waits": (waits, 60),
    "agreement": (agreement, 60),
    "resume": (resume, 60),
    "precision": (precision, 60),
    "step_cost": (step_cost, 140),
}
"""Functions by name, each with the seconds that it may take."""


def run_stage(name: str, size: Size) -> list[Row]:
    """Run one stage."""
    torch.set_num_threads(1)
    return STAGES[name][0](replace(size))
