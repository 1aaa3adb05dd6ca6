"""
ART's certified training as rows: interval bound propagation and DeepZ zonotopes.

Claim of both: certified accuracy, a bound on the error under every perturbation within L-inf eps. Interval bounds:
Gowal et al. 2018, arXiv 1810.12715; zonotopes: Singh et al. 2018 (Fast and Effective Robustness Certification, NeurIPS)
and Mirman et al. 2018 (Differentiable Abstract Interpretation, ICML). Bounds are of float32, not rounded outwards.

As shipped in ART 1.20.1,

- both convert the outermost children of a model, which must be Conv2d, Linear or ReLU with a bias: no Flatten, nothing
  nested, no pooling. A convolution without a bias is given a random one; groups are not looked at;
- both print, and leave hooks in the model that they convert; some layers share its weights and others do not, so that
  training moves a part of it: here a copy is converted, and the weights are copied back;
- both pick the GPU if there is one, whatever `device_type` says, and then find the model on the CPU;
- both shuffle with Python's `random`, which is not seeded with numpy's: here it is;
- interval convolutions are unrolled into dense matrices, after every step anew: 0.7 million entries for the digits, 98
  million for 28x28 (400 MB, and seconds a step). `train_ibp_fixed` convolves centres and radii, to the same bounds;
- zonotopes of images near black or white crash under numpy 2.4 (an array put into one element): `train_deepz_fixed`
  and `certify_deepz` make them with `box_zonotope`, the same boxes;
- the certified and the plain part of an interval loss are of different images;
- the zonotope trainer crashes on a `certification_schedule` of one's own, takes `batch_size` for a missing `nb_epochs`,
  copies the whole training set for every batch, and certifies image by image, with an error term for every pixel and
  for every ReLU that may switch.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainerCertifiedIBPPyTorch, AdversarialTrainerCertifiedPytorch
from art.defences.trainer.ibp_certified_trainer_pytorch import DefaultLinearScheduler
from art.estimators.certification.deep_z import PytorchDeepZ
from art.estimators.certification.interval import PyTorchIBPClassifier, PyTorchIntervalConv2D
from art.estimators.certification.interval import pytorch as interval_module
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.from_art.adversarial import ArtOneCycle
from art_sensreg.benchmark.defences.from_art.interval_convolution import ConvolvedIntervals
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.models import FeatureClassifier
from art_sensreg.utils.model_rng import seeded

Options = dict[str, Any]

# Eps and the weight of the certified loss rise to spec.eps and `final_weight` over `ramp` of the epochs, after `warmup`
# of them; ART's rise from the start over 0.3. `least_steps`: batches are made smaller until there are so many steps.
# With ART's values a run of 12 epochs on the digits ends in a constant prediction.
IBP_OPTIONS: Options = {"final_weight": 0.5, "warmup": 0.0, "ramp": 0.3, "least_steps": 1}
IBP_FIXED_OPTIONS: Options = {"final_weight": 0.5, "warmup": 0.2, "ramp": 0.7, "least_steps": 1000}
# `certified_per_batch`: images of a batch in its certified loss; ART's 10 take five times as long. `points`: images
# that are certified at most.
DEEPZ_OPTIONS: Options = {"loss_weighting": 0.1, "max_iter": 7, "certified_per_batch": 2, "points": 100}

_LARGEST_UNROLLED = 10_000_000
_LARGEST_ZONOTOPE = 20_000_000


class _Row(nn.Sequential):
    """Layers one after the other that flattens by itself: ART infers where, and knows no layer for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that ART converts, without Flatten."""
    if not isinstance(model, FeatureClassifier) or not isinstance(model.features, nn.Sequential):
        raise NotApplicable("ART's certifiers convert a sequence of layers only")
    layers = [layer for layer in (*model.features, model.head) if not isinstance(layer, nn.Flatten)]
    for layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.ReLU):
            raise NotApplicable(f"ART's certifiers know Conv2d, Linear and ReLU; this model has {type(layer).__name__}")
    return layers


def _sizes(spec: TrainingSpec, layers: list[nn.Module]) -> list[int]:
    """Numbers of inputs of a row of layers, and of outputs of each layer."""
    x = torch.zeros(1, *spec.dataset.input_shape)
    sizes = [x.numel()]
    with torch.no_grad():
        for layer in layers:
            x = copy.deepcopy(layer).cpu()(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            sizes.append(x.numel())
    return sizes


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Silence what ART prints and warns of, and seed Python's generator, which its trainers shuffle with."""
    state = seeded([random], int(np.random.randint(2**31)))
    with state, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _convolving(convolved: bool) -> Iterator[None]:
    """Let ART's conversion make convolutions that are not unrolled: it has no argument for that."""
    interval_module.PyTorchIntervalConv2D = ConvolvedIntervals if convolved else PyTorchIntervalConv2D
    try:
        yield
    finally:
        interval_module.PyTorchIntervalConv2D = PyTorchIntervalConv2D


def _convert(spec: TrainingSpec, kind: Any, model: nn.Module, convolved: bool = True, **kwargs: Any) -> Any:
    """One of ART's certifiers of a copy of the model, on the device that ART picks by itself."""
    layers = _layers(model)
    row = copy.deepcopy(_Row(*layers)).to("cuda:0" if torch.cuda.is_available() else "cpu")
    shape = spec.dataset.input_shape
    with _contained(), _convolving(convolved):
        return kind(
            model=row,
            loss=nn.CrossEntropyLoss(),
            input_shape=(math.prod(shape),) if isinstance(layers[0], nn.Linear) else shape,
            nb_classes=spec.dataset.nb_classes,
            optimizer=torch.optim.Adam(row.parameters(), lr=spec.learning_rate),
            clip_values=(0.0, 1.0),
            device_type="gpu",
            **kwargs,
        )


def _images(certifier: Any, x: np.ndarray) -> np.ndarray:
    """Images in the form that the converted model takes: rows, if its first layer is dense."""
    return np.ascontiguousarray(x.reshape(len(x), *certifier.input_shape), dtype=np.float32)


def _copy_back(certifier: Any, model: nn.Module) -> None:
    layers: list[Any] = [layer for layer in _layers(model) if not isinstance(layer, nn.ReLU)]
    converted = [layer for layer in certifier.model.ops if next(layer.parameters(), None) is not None]
    with torch.no_grad():
        for layer, trained in zip(layers, converted, strict=True):
            weight = trained.conv.weight if isinstance(layer, nn.Conv2d) else trained.weight
            bias = trained.bias_to_grad if isinstance(trained, PyTorchIntervalConv2D) else trained.bias
            layer.weight.copy_(weight.view_as(layer.weight))
            layer.bias.copy_(bias)


def _rising(spec: TrainingSpec, options: Options, final: float) -> DefaultLinearScheduler:
    """A schedule that ART's trainer steps before each epoch."""
    ramp = max(1, int(options["ramp"] * spec.epochs))
    return DefaultLinearScheduler(final / ramp, final_val=final, warmup=int(options["warmup"] * spec.epochs))


def _train_ibp(spec: TrainingSpec, options: Options, convolved: bool) -> PyTorchClassifier:
    spec.require_linf("interval bounds are of boxes")
    classifier = spec.art_classifier()
    certifier = _convert(spec, PyTorchIBPClassifier, classifier.model, convolved)
    trainer = AdversarialTrainerCertifiedIBPPyTorch(
        certifier,
        bound=spec.eps,
        certification_schedule=_rising(spec, options, spec.eps),
        loss_weighting_schedule=_rising(spec, options, options["final_weight"]),
    )
    x = _images(certifier, spec.dataset.x_train)
    schedule = ArtOneCycle(certifier.optimizer, spec.learning_rate, spec.epochs)
    with _contained():
        trainer.fit(
            x,
            spec.dataset.y_train,
            limits=[0.0, 1.0],
            batch_size=min(spec.batch_size, max(8, len(x) * spec.epochs // options["least_steps"])),
            nb_epochs=spec.epochs,
            scheduler=schedule,
            verbose=False,
        )
    _copy_back(certifier, classifier.model)
    return classifier


def train_ibp(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerCertifiedIBPPyTorch` as shipped, with convolutions unrolled into dense matrices."""
    layers = _layers(spec.new_model())
    sizes = _sizes(spec, layers)
    unrolled = sum(a * b for a, b, layer in zip(sizes, sizes[1:], layers, strict=False) if isinstance(layer, nn.Conv2d))
    if unrolled > _LARGEST_UNROLLED:
        raise NotApplicable(
            f"ART's interval convolutions would be unrolled after each step into matrices of {unrolled / 1e6:.0f} "
            f"million entries (at most {_LARGEST_UNROLLED / 1e6:.0f} million)"
        )
    return _train_ibp(spec, options, convolved=False)


def train_ibp_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """The same with `ConvolvedIntervals`, at any size of image, and options under which short runs do not collapse."""
    return _train_ibp(spec, options, convolved=True)


def _require_small_zonotopes(spec: TrainingSpec, model: nn.Module) -> None:
    layers = _layers(model)
    sizes = _sizes(spec, layers)
    terms = sizes[0] + sum(size for size, layer in zip(sizes[1:], layers, strict=True) if isinstance(layer, nn.ReLU))
    if terms * max(sizes) > _LARGEST_ZONOTOPE:
        raise NotApplicable(
            f"a zonotope of this model has up to {terms} error terms for {max(sizes)} neurons of a layer"
        )


def box_zonotope(image: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """
    The box around an image, within [0, 1], as ART's `concrete_to_zonotope`.

    :param image: Image of any shape.
    :param eps: L-inf size of the box.
    :return: Centre `(1, *shape)`, and error terms `(pixels, *shape)`.

    Example:
    >>> from art_sensreg.benchmark.defences.from_art.interval_bounds import box_zonotope
    >>> centre, terms = box_zonotope(np.array([0.0, 0.5]), 0.25)
    >>> centre.tolist(), terms.tolist()
    ([[0.125, 0.5]], [[0.125, 0.0], [0.0, 0.25]])
    """
    low, high = np.clip(image - eps, 0.0, 1.0), np.clip(image + eps, 0.0, 1.0)
    terms = np.diag((high - low).ravel() / 2).reshape(image.size, *image.shape)
    return (low + high)[None] / 2, terms


def _train_deepz(spec: TrainingSpec, options: Options, **kwargs: Any) -> PyTorchClassifier:
    spec.require_linf("ART's zonotopes start from boxes")
    classifier = spec.art_classifier()
    _require_small_zonotopes(spec, classifier.model)
    certifier = _convert(spec, PytorchDeepZ, classifier.model, **kwargs)
    attack = {"eps": spec.eps, "eps_step": 2.5 * spec.eps / options["max_iter"], "max_iter": options["max_iter"]}
    trainer = AdversarialTrainerCertifiedPytorch(
        certifier,
        bound=spec.eps,
        loss_weighting=options["loss_weighting"],
        batch_size=options["certified_per_batch"],
        pgd_params={**attack, "batch_size": spec.batch_size, "num_random_init": 1},
    )
    schedule = ArtOneCycle(certifier.optimizer, spec.learning_rate, spec.epochs)
    x = _images(certifier, spec.dataset.x_train)
    with _contained():
        trainer.fit(x, spec.dataset.y_train, nb_epochs=spec.epochs, scheduler=schedule, verbose=False)
    _copy_back(certifier, classifier.model)
    return classifier


def train_deepz(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerCertifiedPytorch` as shipped: zonotope loss of a few images a batch, beside PGD training."""
    try:
        return _train_deepz(spec, options)
    except (TypeError, ValueError) as error:
        if "sequence" not in str(error):
            raise
        raise NotApplicable(
            f"ART's zonotopes of images near black or white crash under numpy 2 ({error}); see art-deepz-fixed"
        ) from error


def train_deepz_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """The same training with `box_zonotope`, which does not crash under numpy 2.4."""
    return _train_deepz(spec, options, concrete_to_zonotope=box_zonotope)


def certify_ibp(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, y: np.ndarray, eps: float, options: Options
) -> np.ndarray:
    """
    Which images are provably rightly classified under every perturbation, by interval bounds.

    :param spec: The training spec.
    :param model: A trained model of its architecture.
    :param x: Images.
    :param y: Class indices `(n,)`.
    :param eps: L-inf size of the perturbations; perturbed images lie in [0, 1].
    :param options: Not used.
    :return: Boolean array `(n,)`.
    :raises NotApplicable: If ART cannot convert the model.
    """
    certifier = _convert(spec, PyTorchIBPClassifier, model)
    certifier.model.set_forward_mode("abstract")
    with torch.no_grad():
        bounds = certifier.predict_intervals(_images(certifier, x), bounds=float(eps), limits=[0.0, 1.0])
    certified: np.ndarray = certifier.certify(bounds, y)
    return certified


def certify_deepz(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, y: np.ndarray, eps: float, options: Options
) -> np.ndarray:
    """
    The same by zonotopes, mostly tighter than intervals and one by one.

    :param spec: The training spec.
    :param model: A trained model of its architecture.
    :param x: Images.
    :param y: Class indices `(n,)`.
    :param eps: L-inf size of the perturbations; perturbed images lie in [0, 1].
    :param options: `points` is the number of images that are certified at most: the first ones.
    :return: Boolean array `(min(n, points),)`.
    :raises NotApplicable: If ART cannot convert the model, or the zonotopes would be too large.
    """
    _require_small_zonotopes(spec, model)
    certifier = _convert(spec, PytorchDeepZ, model)
    certifier.model.set_forward_mode("abstract")
    certified = []
    with torch.no_grad():
        for image, label in zip(_images(certifier, x)[: options["points"]], y, strict=False):
            centre, terms = box_zonotope(image, eps)
            # Of the right class, not of the predicted one: dominated by it everywhere, the others are wrong everywhere.
            certified.append(certifier.certify(cent=centre, eps=terms, prediction=int(label)))
    return np.array(certified, dtype=bool)
