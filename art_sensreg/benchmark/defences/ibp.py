"""
Certified training by interval bounds, as its literature does it: Gowal et al. 2018, arXiv 1810.12715, with the
initialisation and the regularisers of Shi et al. 2021, arXiv 2103.17128, on a network of its own.

Claim: certified accuracy, a bound on the error under every perturbation within L-inf eps.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional

from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.benchmark.defences.bounds import Bounds, UnboundedError, interval_bounds, layers_in_sequence
from art_sensreg.benchmark.defences.from_art.interval_bounds import CERTIFIED_CLAIM
from art_sensreg.benchmark.defences.spec import Certificate, Defence, Options
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec, is_one_left, without_one
from art_sensreg.models import FeatureClassifier
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.callbacks import Callback, TrainingState
from art_sensreg.utils import check_choice, check_number

# `eps`: the largest size of the run; training is at `eps_factor` times it. Eps is 0 for `warmup` of the steps and rises
# over `ramp` of them, while the weight of the clean loss falls from 1 to `kappa`. `reg_weight`: of the regularisers,
# which fall to 0 meanwhile. `least_steps`: batches are made smaller until there are so many. `net`: `own`, a network of
# `width` and twice as many channels, or `run`, that of the run.
IBP_OPTIONS: Options = {
    "eps": None,
    "eps_factor": 4 / 3,
    "kappa": 0.0,
    "warmup": 0.05,
    "ramp": 0.5,
    "reg_weight": 0.5,
    "least_steps": 1000,
    "net": "own",
    "width": 16,
}
NETS = ("own", "run")
# Of the regularisers: ratios above it are not penalised (Shi et al. 2021, section 4.2).
TOLERANCE = 0.5
SMALLEST_EPS = 1e-6  # at which the regularisers are computed before eps rises, as in the authors' code
# Images of a batch whose bounds are regularised: of all of them it would double the time of a step, for means over
# some ten thousand units each.
REGULARISED = 32
# Largest norm of the gradient, as in the authors' program.
MAX_GRAD_NORM = 10.0
_CERTIFIED_AT_ONCE = 250


def interval_init(model: nn.Module) -> None:
    """
    Draw the weights of all layers but the last from a normal distribution of deviation `sqrt(2 pi) / fan_in`, with
    which intervals neither grow nor shrink from layer to layer (Shi et al. 2021, section 4.1).
    """
    layers = [layer for layer in layers_in_sequence(model) if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers[:-1]:
        nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())


def own_network(input_shape: tuple[int, int, int], nb_classes: int, width: int) -> nn.Module:
    """
    Four convolutions and two dense layers with BatchNorm, which keeps the activations of clean images from vanishing
    under :func:`interval_init` (Shi et al. 2021, section 4.3).
    """
    channels, height, rest = input_shape
    layers: list[nn.Module] = []
    for kernel, stride, outputs in ((3, 1, width), (4, 2, width), (3, 1, 2 * width), (4, 2, 2 * width)):
        layers += [nn.Conv2d(channels, outputs, kernel, stride=stride, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        channels = outputs
    size = channels * (height // 4) * (rest // 4)
    layers += [nn.Flatten(), nn.Linear(size, 16 * width, bias=False), nn.BatchNorm1d(16 * width), nn.ReLU()]
    return FeatureClassifier(nn.Sequential(*layers), nn.Linear(16 * width, nb_classes))


class ScaledCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy times a factor, which a schedule changes."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.factor = 1.0

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.factor * super().forward(input, target)


def regularisers(bounds: Bounds) -> torch.Tensor:
    """
    Tightness of the bounds against those of the images, and balance of active and inactive units, mean over the
    activations (Shi et al. 2021, equations 8 to 10).
    """
    total = bounds.margins.new_zeros(())
    width = bounds.images.radius.mean()
    for unit in bounds.preactivations:
        total = total + functional.relu(TOLERANCE - width / unit.radius.mean().clamp(min=1e-12))
        active, inactive = unit.low > 0, unit.high < 0
        spread = (unit.centre - unit.centre.mean()).pow(2)
        means = (unit.centre * active).mean(), -(unit.centre * inactive).mean()
        variances = (spread * active).mean(), (spread * inactive).mean()
        for one, other in (means, variances):
            least, most = torch.minimum(one, other), torch.maximum(one, other)
            # Where all units may be either, there is nothing to balance.
            total = total + functional.relu(TOLERANCE - least / most.clamp(min=1e-12)) * (most > 0)
    return total / (TOLERANCE * max(1, len(bounds.preactivations)))


class IntervalLoss:
    """
    The penalty: cross-entropy of the worst case within eps, and the regularisers. A schedule changes eps and weights.

    :param label_smoothing: As in the clean loss.
    """

    name = "interval_bounds"
    weight = 1.0

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing
        self.eps, self.factor, self.reg_weight = 0.0, 0.0, 0.0

    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # While eps is 0, bounds of radius 0 would tell the regularisers nothing; the worst case does not count yet.
        bounds = interval_bounds(model, x, y, max(self.eps, SMALLEST_EPS if self.reg_weight else 0.0))
        worst = functional.cross_entropy(-bounds.margins, y, label_smoothing=self.label_smoothing)
        loss = self.factor * worst
        return loss + self.reg_weight * regularisers(bounds.first(REGULARISED)) if self.reg_weight else loss


class IntervalSchedule(Callback):
    """
    What changes during the run: eps, the weights of both losses, and that of the regularisers.

    :param options: Those of the row.
    :param steps: Steps of the run.
    :param clean: The loss of clean images.
    :param certified: The loss of the worst case.
    """

    def __init__(self, options: Options, steps: int, clean: ScaledCrossEntropy, certified: IntervalLoss) -> None:
        self._options, self._steps = options, steps
        self._clean, self._certified = clean, certified

    def risen(self, step: int) -> float:
        """How far eps has risen in a step, from 0 to 1."""
        begun = step - self._options["warmup"] * self._steps
        return float(min(1.0, max(0.0, begun / max(1.0, self._options["ramp"] * self._steps))))

    def on_start(self, state: TrainingState) -> None:
        """Take up the schedule where a stored run was."""
        self._set(state.total_steps)

    def on_step(self, state: TrainingState) -> None:
        """Set what the next step has."""
        self._set(state.total_steps)

    def _set(self, step: int) -> None:
        options, risen = self._options, self.risen(step)
        self._certified.eps = risen * options["eps"] * options["eps_factor"]
        self._clean.factor = 1 - (1 - options["kappa"]) * risen
        self._certified.factor = 1 - self._clean.factor
        self._certified.reg_weight = options["reg_weight"] * (1 - risen)


def _network(spec: TrainingSpec, options: Options) -> nn.Module:
    model = spec.new_model()  # seeds torch
    if spec.weights is not None:
        if options["net"] == "own":
            raise NotApplicable("`weights` are those of the run's network, and ibp trains one of its own (ibp.net=run)")
        return model
    if options["net"] == "own":
        model = own_network(spec.dataset.input_shape, spec.dataset.nb_classes, options["width"])
    try:
        interval_init(model)
    except UnboundedError as error:
        raise NotApplicable(f"{error}: see the option `net`") from error
    return model


def train(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """Train with this package's trainer, in batches of such a size that there are enough steps."""
    images = len(spec.dataset.x_train)
    spec = replace(spec, batch_size=min(spec.batch_size, max(8, images * spec.epochs // options["least_steps"])))
    network = _network(spec, options)
    if is_one_left(spec.dataset, spec.batch_size):  # the network of its own has BatchNorm
        spec = replace(spec, dataset=without_one(spec.dataset))
    classifier = spec.trainee(network)
    certified = IntervalLoss(classifier.loss.label_smoothing)
    clean = ScaledCrossEntropy(label_smoothing=classifier.loss.label_smoothing)
    classifier._loss = clean
    schedule = IntervalSchedule(options, spec.steps, clean, certified)
    config = spec.config(callbacks=[schedule], max_grad_norm=spec.optimization.max_grad_norm or MAX_GRAD_NORM)
    return spec.fit(SensRegTrainer(classifier, [certified], config))


def certify(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, y: np.ndarray, eps: float, options: Options
) -> np.ndarray:
    """
    Which images are provably classified correctly everywhere within L-inf eps and [0, 1]: bounds in float64, not
    rounded outwards.
    """
    wide = copy.deepcopy(model).double().eval()
    device = next(wide.parameters()).device
    images, labels = torch.from_numpy(x).double(), torch.from_numpy(y).long()
    certified = []
    with torch.no_grad():
        for part, classes in zip(images.split(_CERTIFIED_AT_ONCE), labels.split(_CERTIFIED_AT_ONCE), strict=True):
            margins = interval_bounds(wide, part.to(device), classes.to(device), eps).margins
            others = margins.scatter(1, classes.to(device)[:, None], math.inf)
            certified.append((others > 0).all(dim=1).cpu().numpy())
    return np.concatenate(certified)


def _check(options: Options) -> None:
    check_choice("net", options["net"], NETS)
    for name in ("kappa", "warmup", "ramp"):
        check_number(name, options[name], 0.0, maximum=1.0)
    if options["warmup"] + options["ramp"] > 1:
        raise ValueError(
            f"`warmup` is {options['warmup']} and `ramp` is {options['ramp']}; expected at most 1 together, "
            "else eps never rises to its full size."
        )
    check_number("eps_factor", options["eps_factor"], 0.0, exclusive=True)


INTERVALS = (
    Defence(
        "ibp",
        "Interval bounds, trained as in the literature, on a network that suits them",
        "Gowal et al. 2018, arXiv 1810.12715; Shi et al. 2021, arXiv 2103.17128",
        IBP_OPTIONS,
        CERTIFIED_CLAIM,
        training=train,
        architecture=_network,
        norms=("linf",),
        norms_reason="interval bounds are of boxes",
        # All images: a bound costs two forward passes.
        certificate=Certificate(norm="linf", certify=certify, points=dict.fromkeys(BUDGETS, 10**6)),
        check=_check,
    ),
)
