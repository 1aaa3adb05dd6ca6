"""GradDiv on each kind of random network: noise and weight searched, and attacks on few draws that meet others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.attacks import ProjectedAscent
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.config.threat_models import allowed
from art_sensreg.benchmark.defences import DEFENCES, Defence, TrainingSpec
from art_sensreg.benchmark.defences.registry import resolve_options
from art_sensreg.benchmark.results.writing import json_text, write_text
from art_sensreg.datasets import Dataset
from art_sensreg.outputs import predicted_classes
from art_sensreg.penalties import GradientDiversityPenalty
from art_sensreg.penalties.gradient_diversity import gradient_cosine
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.utils.rng import seed_everything
from art_sensreg.utils.tables import Table

NOISE = {"rse": ("first_std", "std"), "adv-bnn": ("prior_std",), "pni": ("initial_alpha",)}
"""The random networks, and the options that are the strength of their noise."""
FACTORS, WEIGHTS, DRAWS = (0.5, 1.0, 2.0), (0.0, 0.02, 0.07, 0.2), (1, 2, 4, 16)
_WARMUP = 0.5
# Draws that no attack has seen.
_FRESH = range(1000, 1016)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """
    A random network that was trained.

    :param base: One of `NOISE`.
    :param factor: Strength of its noise, in multiples of the defence's.
    :param weight: Weight of GradDiv; 0: without.
    :param seed: Training seed.
    :param cosine: Mean pairwise cosine of the gradients of 32 draws.
    :param clean: Accuracy of one draw, mean over fresh ones.
    :param own: Accuracy of the attacked draws, by their number.
    :param others: Accuracy of fresh draws on the same images, by the number of draws that were attacked.
    """

    base: str
    factor: float
    weight: float
    seed: int
    cosine: float
    clean: float
    own: Mapping[str, float]
    others: Mapping[str, float]

    @property
    def key(self) -> tuple[str, float, float, int]:
        """What was trained."""
        return self.base, self.factor, self.weight, self.seed


class FixedDraws(nn.Module):
    """
    A random network with its randomness fixed: the mean of the logits of so many draws, the same ones in every call.

    :param model: The random network, which draws from torch's generator of the CPU.
    :param draws: The seed of each draw.
    """

    def __init__(self, model: nn.Module, draws: Sequence[int]) -> None:
        super().__init__()
        self.model, self.draws = model, tuple(draws)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = []
        for draw in self.draws:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw)
                logits.append(self.model(x))
        return torch.stack(logits).mean(0)


def with_diversity(base: str, weight: float) -> Defence:
    """
    A random network of the suite that is trained with GradDiv beside what it is trained with anyway. The weights of its
    penalties rise over half of the run, as in the row `graddiv`.
    """
    defence = DEFENCES[base]
    if not weight:
        return defence
    penalty = GradientDiversityPenalty(weight=weight)
    own, trainer = defence.penalties, defence.trainer
    if own is not None:
        return replace(defence, penalties=lambda options: [*own(options), penalty])
    assert trainer is not None

    def extended(classifier: Any, spec: TrainingSpec, options: dict[str, Any]) -> SensRegTrainer:
        made = trainer(classifier, spec, options)
        assert isinstance(made, SensRegTrainer)
        config = replace(made.config, penalty_warmup=_WARMUP)
        return SensRegTrainer(classifier, [*made.penalties, penalty], config, adversary=made.adversary)

    return replace(defence, trainer=extended)


def measure(
    dataset: Dataset, setting: tuple[str, float, float, int], epochs: int, points: int, eps: float = 0.1
) -> Candidate:
    """Train a base with a strength, a weight and a seed; attack few draws, and show the images to fresh ones."""
    base, factor, weight, seed = setting
    recipe = RECIPES["digits"]
    spec = TrainingSpec(
        dataset=dataset, model=recipe.model, seed=seed, epochs=epochs, batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate, eps=2 * eps,
    )  # fmt: skip
    defence = with_diversity(base, weight)
    options = resolve_options(base, {}, {"eps": spec.eps, "norm": "linf", **recipe.penalties.get(base, {})})
    options = {name: value * factor if name in NOISE[base] else value for name, value in options.items()}
    options |= {"penalty_warmup": _WARMUP} if weight else {}
    seed_everything("graddiv bases", *setting)
    model = defence.train(spec, options).model.eval()
    x, y = dataset.x_test[:points], dataset.y_test[:points]
    torch.manual_seed(0)
    cosine = gradient_cosine(model, torch.from_numpy(x), torch.from_numpy(y).long(), samples=32)
    own, others = {}, {}
    for count in DRAWS:
        attacked = spec.classifier(FixedDraws(model, range(count)))
        x_adv = ProjectedAscent(attacked, eps=eps, max_iter=40, seed=seed).generate(x, y=y)
        assert allowed(x, x_adv, "linf", eps).all()
        own[str(count)] = _accuracy(spec, model, range(count), x_adv, y)
        others[str(count)] = _accuracy(spec, model, _FRESH, x_adv, y)
    return Candidate(
        base=base, factor=factor, weight=weight, seed=seed, cosine=float(cosine),
        clean=_accuracy(spec, model, _FRESH, x, y), own=own, others=others,
    )  # fmt: skip


def _accuracy(spec: TrainingSpec, model: nn.Module, draws: Sequence[int], x: np.ndarray, y: np.ndarray) -> float:
    """The accuracy of one draw, mean over several."""
    shares = []
    for draw in draws:
        classifier = spec.classifier(FixedDraws(model, [draw]))
        shares.append(float((predicted_classes(classifier.predict(x), classifier) == y).mean()))
    return fmean(shares)


def chosen(candidates: Sequence[Candidate], base: str, diverse: bool) -> Candidate:
    """
    The best of a base, with GradDiv or without: the most robust against an attack on most draws, of those whose clean
    accuracy is at most a point below the base's best.
    """
    found = [one for one in candidates if one.base == base]
    best = max(one.clean for one in found)
    fit = [one for one in found if (one.weight > 0) == diverse and one.clean >= best - 0.0101]
    fit = fit or [one for one in found if (one.weight > 0) == diverse]
    return max(fit, key=lambda one: one.others[str(DRAWS[-1])])


def run_bases(
    dataset: Dataset, path: Path, epochs: int, seeds: int, points: int, say: Callable[[str], object]
) -> tuple[list[Candidate], list[Candidate]]:
    """
    Search on held-out training images, then measure what was chosen on test images with every seed; each network is
    stored in the file as soon as it is measured, and not trained again. ValueError if the file is of another study.
    """
    study: dict[str, Any] = {"epochs": epochs, "points": points}
    stored: dict[str, Any] = {"study": study, "search": [], "test": []}
    if path.exists():
        stored = json.loads(path.read_text())
    if stored["study"] != study:
        raise ValueError(f"{path} is of a study with {stored['study']}, and this one has {study}; choose another --out")
    held_out = dataset.with_validation_as_test()

    def measured(part: str, data: Dataset, settings: Sequence[tuple[str, float, float, int]]) -> list[Candidate]:
        found = {one.key: one for one in (Candidate(**entry) for entry in stored[part])}
        for setting in settings:
            if setting not in found:
                found[setting] = measure(data, setting, epochs, points)
                stored[part].append(asdict(found[setting]))
                write_text(path, json_text(stored))
                say(f"{part}: {setting}: {found[setting]}")
        return [found[setting] for setting in settings]

    grid = [(base, factor, weight, 0) for base in NOISE for factor in FACTORS for weight in WEIGHTS]
    tried = measured("search", held_out, grid)
    best = [chosen(tried, base, diverse) for base in NOISE for diverse in (False, True)]
    settings = [(one.base, one.factor, one.weight, seed) for one in best for seed in range(seeds)]
    return tried, measured("test", dataset, settings)


def bases_table(candidates: Sequence[Candidate]) -> Table:
    """A row for each network, the mean over its seeds: the accuracy of attacked draws, and of fresh ones."""
    rows = []
    for key in dict.fromkeys(one.key[:3] for one in candidates):
        runs = [one for one in candidates if one.key[:3] == key]
        pairs = [
            f"{100 * fmean(one.own[str(count)] for one in runs):.1f} / "
            f"{100 * fmean(one.others[str(count)] for one in runs):.1f}"
            for count in DRAWS
        ]
        cosine, clean = fmean(one.cosine for one in runs), 100 * fmean(one.clean for one in runs)
        rows.append([key[0], f"{key[1]:g}", f"{key[2]:g}", f"{cosine:.2f}", f"{clean:.1f}", *pairs])
    header = ["base", "noise", "GradDiv", "cosine", "clean %", *(f"attack on {n}: own / fresh %" for n in DRAWS)]
    return Table(header, rows)
