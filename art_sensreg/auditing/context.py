"""What the checks look at: the classifier, the points, and the attacks that several checks share, each run once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from torch import nn

from art_sensreg.art_bridge.dtypes import model_dtype
from art_sensreg.attacks.base.ascent import Ascent, Steps, ascend, loss_on_logits
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.attacks.base.norms import Ball, norm_name
from art_sensreg.attacks.base.predictions import predicted_scores
from art_sensreg.attacks.wrappers.torch_model import differentiable_model
from art_sensreg.outputs import SingleOutput
from art_sensreg.randomized import RandomizedClassifier
from art_sensreg.utils.rng import derive_seed
from art_sensreg.utils.stats import share_half_width

_BATCH = 512
# Losses and starts of the restarts that follow PGD on cross-entropy, each on what is left.
_RESTARTS = (
    ("logits_ratio", "inside"),
    ("cross_entropy", "border"),
    ("logits_ratio", "border"),
    ("margin", "inside"),
    ("margin", "border"),
)
# Repeated outputs that differ by less, in shares of their scale, are the same: some GPU kernels add in any order.
SAME = 1e-5


@dataclass(frozen=True, kw_only=True)
class Effort:
    """
    How much work the checks do.

    :param steps: Steps of the reference attack.
    :param restarts: Restarts that the check of restarts adds.
    :param queries: Queries of the black-box attack, and draws of the random search.
    :param points: Largest number of images.
    :param binarised: Images that get a binarised copy.
    """

    steps: int = 80
    restarts: int = 10
    queries: int = 300
    points: int = 400
    binarised: int = 40


FULL = Effort()
QUICK = Effort(steps=40, restarts=3, queries=60, points=128, binarised=16)


class Evidence:
    """
    A classifier under audit, with everything that was given to judge it by.

    :param classifier: ART classifier.
    :param x: Images in the user's units, float32.
    :param y: Class indices.
    :param eps: Size of the perturbation that robustness is claimed for.
    :param norm: `linf`, `l2` or `l1`.
    :param seed: Seed of everything random.
    :param effort: How much work the checks do.
    :param twin: The same model trained without penalties, or None.
    :param surrogates: Other models, adversarially trained ones above all.
    :param penalties: Those that the classifier was trained with.
    :param train_data: Images and labels, or None.
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        x: np.ndarray,
        y: np.ndarray,
        *,
        eps: float,
        norm: str,
        seed: int,
        effort: Effort,
        twin: PyTorchClassifier | None = None,
        surrogates: Sequence[PyTorchClassifier] = (),
        penalties: Sequence[Any] = (),
        train_data: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.classifier, self.x, self.y = classifier, x, y
        self.eps, self.norm, self.seed, self.effort = eps, norm_name(norm), seed, effort
        self.twin, self.surrogates, self.penalties, self.train_data = twin, tuple(surrogates), penalties, train_data
        self.model: nn.Module = differentiable_model(classifier, surrogates=False)
        self.declared_random = isinstance(classifier, RandomizedClassifier)

    # --- what is audited --------------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.x)

    @property
    def clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of each pixel, or of all; without `clip_values` there are none."""
        clip = self.classifier.clip_values
        low, high = (-np.inf, np.inf) if clip is None else clip
        return np.asarray(low), np.asarray(high)

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that an image may have; without `clip_values`, that one has."""
        low, high = (float(end) for end in (self.clip[0].min(), self.clip[1].max()))
        return (low, high) if math.isfinite(high - low) else (float(self.x.min()), float(self.x.max()))

    @property
    def width(self) -> float:
        """Width of the range of images."""
        return self.range[1] - self.range[0]

    def ball(self, eps: float | None = None) -> Ball:
        """The perturbations allowed at a size; that of the audit if None."""
        low, high = (torch.as_tensor(end, dtype=self.dtype, device=self.device) for end in self.clip)
        return Ball(self.norm, self.eps if eps is None else eps, low, high)

    def large_eps(self, share: float) -> float:
        """The size whose ball holds every image within `share` of the range in each pixel."""
        pixels = int(np.prod(self.x.shape[1:]))
        return share * self.width * {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels)}[self.norm]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.classifier.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What attacks compute in: the model's precision where that is finer than float32."""
        return torch.promote_types(torch.float32, model_dtype(self.classifier.model))

    def tensors(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of some rows, on the device."""
        x = torch.from_numpy(self.x[rows]).to(self.device, self.dtype)
        return x, torch.from_numpy(self.y[rows]).to(self.device)

    def generator(self, *purpose: int | str) -> torch.Generator:
        """Random numbers of one purpose, on the CPU."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *purpose))

    # --- predictions ------------------------------------------------------------------------------------------------

    @cached_property
    def array_dtype(self) -> np.dtype:
        """What images are given to the classifier as: a plain ART classifier takes its model's type only."""
        return np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)

    @cached_property
    def one_output(self) -> bool:
        """Whether it is one of ART's binary classifiers with one output."""
        return np.asarray(self.classifier.predict(self.x[:1].astype(self.array_dtype))).shape[1:] in {(), (1,)}

    @cached_property
    def one_probability(self) -> bool:
        """Whether that output is a probability, as its loss says."""
        return self.one_output and SingleOutput.of(self.classifier).check() == "probability"

    def predict(self, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
        """Outputs of the classifier's own `predict`, a column for each class; see `outputs.class_scores`."""
        return predicted_scores(self.classifier, x.astype(self.array_dtype), batch_size)

    def right(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which images the classifier's own `predict` takes for their label."""
        outputs = self.predict(x) if len(x) else np.zeros((0, 2))
        found: np.ndarray = outputs.argmax(axis=1) == self.y[rows]
        return found

    @cached_property
    def clean(self) -> np.ndarray:
        """Which images are classified rightly."""
        return self.right(self.x, np.arange(self.n))

    @cached_property
    def correct_rows(self) -> np.ndarray:
        """The rows that are classified rightly: those that an attack has to break."""
        return np.flatnonzero(self.clean)

    @cached_property
    def spread(self) -> float:
        """Largest difference of repeated outputs on the same images, over the scale of the outputs."""
        rows = slice(0, min(128, self.n))
        # Small batches: a model that draws once a pass, from few values, may well draw the same one twice.
        runs = np.stack([self.predict(self.x[rows], batch_size=16) for _ in range(6)])
        return float((runs.max(axis=0) - runs.min(axis=0)).max() / output_scale(runs[0]))

    @property
    def random(self) -> bool:
        """Whether the same images give other outputs."""
        return not self.spread <= SAME

    @cached_property
    def outputs(self) -> np.ndarray:
        """Outputs of `predict` on all images."""
        return self.predict(self.x)

    # --- attacks ----------------------------------------------------------------------------------------------------

    def ascent(
        self,
        rows: np.ndarray,
        *purpose: int | str,
        eps: float | None = None,
        loss: str = "cross_entropy",
        max_iter: int | None = None,
        eps_step: float | None = None,
        start: str = "inside",
        model: nn.Module | None = None,
    ) -> Ascent:
        """
        Projected ascent on the logits as ART's attacks see them.

        :param rows: Which images.
        :param purpose: What the random starts are drawn for.
        :param eps: Size; that of the audit if None.
        :param loss: Name of the loss.
        :param max_iter: Steps; those of the effort if None.
        :param eps_step: Size of a step; `2.5 * eps / max_iter` if None.
        :param start: `inside`, `border` or `none`.
        :param model: Another model to attack.
        :return: What was found, for all rows.
        """
        ball, steps, parts = self.ball(eps), self.effort.steps if max_iter is None else max_iter, []
        step = 2.5 * ball.eps / max(steps, 1) if eps_step is None else eps_step
        moves = Steps(eps_step=step, max_iter=steps)
        generator, target, value = self.generator("ascent", *purpose), model or self.model, LOSSES[loss]
        for batch in np.array_split(rows, max(1, -(-len(rows) // _BATCH))):
            x, y = self.tensors(batch)
            begin = x if start == "none" else getattr(ball, start)(x, generator)
            parts.append(ascend(loss_on_logits(target, y, value), x, y, ball, begin, moves))
        if len(parts) == 1:
            return parts[0]
        sizes = torch.tensor([len(part.margin) for part in parts], dtype=torch.float32, device=self.device)
        mean = (torch.stack([part.losses for part in parts], 1) * sizes).sum(1) / sizes.sum()
        names = ("perturbed", "margin", "last_margin")
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **joined, losses=mean, margins=torch.cat([part.margins for part in parts], 1))

    def broken(self, found: Ascent | np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which of the rows an attack broke, by the classifier's own `predict`."""
        images = found if isinstance(found, np.ndarray) else found.perturbed.to("cpu", torch.float32).numpy()
        return ~self.right(images, rows)

    @cached_property
    def reference(self) -> Ascent:
        """The attack under judgement, on cross-entropy: PGD from one random start, on the rightly classified rows."""
        return self.ascent(self.correct_rows, "reference")

    @cached_property
    def survivors(self) -> np.ndarray:
        """Rows that the attack under judgement has not broken: PGD with three losses, and starts inside and outside."""
        rows: np.ndarray = self.correct_rows
        rows = rows[~self.broken(self.reference, rows)]
        for loss, start in _RESTARTS:
            if len(rows):
                rows = rows[~self.broken(self.ascent(rows, "reference", loss, start, loss=loss, start=start), rows)]
        return rows

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that the reference attack left."""
        return len(self.survivors) / self.n

    def gain(self, *attempts: Any) -> float:
        """
        Share of all images that further attacks break among the survivors of the reference.

        :param attempts: Functions of rows, to what :meth:`broken` takes; each sees what the former ones left.
        :return: A share of all images.
        """
        left = self.survivors
        for attempt in attempts:
            if len(left):
                left = left[~self.broken(attempt(left), left)]
        return (len(self.survivors) - len(left)) / self.n

    def generated(self, attack: EvasionAttack) -> Any:
        """An ART attack as a function of rows, for :meth:`gain`."""

        def attempt(rows: np.ndarray) -> np.ndarray:
            labels = to_categorical(self.y[rows], self.classifier.nb_classes)
            images = attack.generate(self.x[rows].astype(self.array_dtype), y=labels)
            return np.asarray(images, dtype=np.float32)

        return attempt

    def widened(self, nominal: float, share: float | None = None, points: int | None = None) -> float:
        """
        A threshold that is not finer than the sampling error of n points.

        :param nominal: The threshold.
        :param share: The share that is measured; the robust accuracy if None.
        :param points: Number of images that it is a share of; all if None.
        :return: The larger of the threshold, half the width of the share's 95 % interval, and one image.
        """
        share = self.robust_accuracy if share is None else share
        points = self.n if points is None else points
        return max(nominal, share_half_width((share, points)), 1 / points)


def output_scale(outputs: np.ndarray) -> float:
    """
    A typical size of outputs: their spread over the classes, mean over the images.

    :param outputs: `(n, C)`.
    :return: Above 0.
    """
    return float(np.ptp(np.nan_to_num(outputs), axis=-1).mean()) + 1e-12
