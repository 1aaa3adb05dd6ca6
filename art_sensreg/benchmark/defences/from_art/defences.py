"""ART's own defences as rows of the suite: as shipped, and `...-fixed` where a defect of ART changes the result."""

from __future__ import annotations

from dataclasses import replace

from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.from_art import adversarial as art
from art_sensreg.benchmark.defences.from_art.certified import BOUNDED_ROWS, SMOOTHED_ROWS
from art_sensreg.benchmark.defences.from_art.instahide import INSTAHIDE_OPTIONS, train_dp_instahide
from art_sensreg.benchmark.defences.from_art.oaat import OAAT_OPTIONS, train_oaat, train_oaat_fixed
from art_sensreg.benchmark.defences.from_art.postprocessing import POSTPROCESSING_ROWS, NamedPostprocessing
from art_sensreg.benchmark.defences.from_art.preprocessing import PREPROCESSING_ROWS, NamedRow
from art_sensreg.benchmark.defences.from_art.soft_labels import (
    DISTILLATION_FIXED_OPTIONS,
    DISTILLATION_OPTIONS,
    LABEL_SMOOTHING_OPTIONS,
    train_distillation,
    train_distillation_fixed,
    train_label_smoothing,
)
from art_sensreg.benchmark.defences.ours import OURS
from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.utils import check_number

_LINF = robust_accuracy("white-box evasion within eps in L-inf")
_ANY_NORM = robust_accuracy("white-box evasion within eps in the norm it trains in")
_PGD = {"max_iter": 7}

_TRADES_PAPER = "Zhang et al. 2019, arXiv 1901.08573"
_FBF_PAPER = "Wong et al. 2020, arXiv 2001.03994"
_AWP_PAPER = "Wu et al. 2020, arXiv 2004.05884"
_OAAT_PAPER = "Addepalli et al. 2022, arXiv 2210.09852"
_DISTILLATION_PAPER = "Papernot et al. 2016, arXiv 1511.04508"


def _twin(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """The model of `none`, for what trains nothing."""
    return OURS[0].train(spec, {})


def _preprocessed(named: NamedRow) -> Defence:
    """A defence that is a preprocessor before the model of `none`."""
    ours = not named.name.startswith("art-")
    return Defence(
        named.name, named.summary, named.paper, _twin, named.options, named.claim, ours=ours, preprocessing=named.row
    )


def _postprocessed(named: NamedPostprocessing) -> Defence:
    """A defence that changes the scores of the model of `none`."""
    return Defence(
        named.name,
        named.summary,
        named.paper,
        _twin,
        named.options,
        named.claim,
        ours=False,
        repaired=named.repaired,
        postprocessing=named.make,
        answers=named.answers,
    )


_TRAINERS = (
    Defence(
        "art-adversarial",
        "ART AdversarialTrainer, FGM on half of each batch",
        "Goodfellow et al. 2015, arXiv 1412.6572; Tramer et al. 2018, arXiv 1705.07204",
        art.train_adversarial,
        {"ratio": 0.5},
        _ANY_NORM,
        ours=False,
    ),
    Defence(
        "art-madry",
        "ART AdversarialTrainerMadryPGD",
        "Madry et al. 2018, arXiv 1706.06083",
        art.train_madry,
        _PGD,
        _LINF,
        ours=False,
    ),
    Defence(
        "art-trades",
        "ART AdversarialTrainerTRADES as shipped: cross-entropy attack, no schedule",
        _TRADES_PAPER,
        art.train_trades,
        {**_PGD, "beta": 6.0, "learning_rate": 1e-3},
        _ANY_NORM,
        ours=False,
    ),
    Defence(
        "art-trades-fixed",
        "ART AdversarialTrainerTRADES, repaired",
        _TRADES_PAPER,
        art.train_trades_fixed,
        {**_PGD, "beta": 6.0},
        _ANY_NORM,
        repaired="the inner attack maximises KL as in the paper; a torch 2 scheduler is accepted",
    ),
    Defence(
        "art-fbf",
        "ART AdversarialTrainerFBF as shipped (SGD, its own schedule)",
        _FBF_PAPER,
        art.train_fbf,
        claim=_LINF,
        ours=False,
    ),
    Defence(
        "art-fbf-fixed",
        "ART AdversarialTrainerFBF, repaired",
        _FBF_PAPER,
        art.train_fbf_fixed,
        claim=_LINF,
        repaired="trains in training mode, and with the optimizer's own learning rate",
    ),
    Defence(
        "art-awp",
        "ART AdversarialTrainerAWP as shipped (PGD mode, no schedule)",
        _AWP_PAPER,
        art.train_awp,
        {**_PGD, "gamma": 0.005, "proxy_learning_rate": 0.01, "learning_rate": 1e-3},
        _ANY_NORM,
        ours=False,
    ),
    Defence(
        "art-awp-fixed",
        "ART AdversarialTrainerAWP, repaired",
        _AWP_PAPER,
        art.train_awp_fixed,
        {**_PGD, "gamma": 0.005, "proxy_learning_rate": 0.01},
        _ANY_NORM,
        repaired="a torch 2 scheduler is accepted",
    ),
    Defence(
        "art-oaat",
        "ART AdversarialTrainerOAAT as shipped: no weight average, no perceptual term",
        _OAAT_PAPER,
        train_oaat,
        OAAT_OPTIONS,
        _LINF,
        ours=False,
    ),
    Defence(
        "art-oaat-fixed",
        "ART AdversarialTrainerOAAT, repaired",
        _OAAT_PAPER,
        train_oaat_fixed,
        OAAT_OPTIONS,
        _LINF,
        repaired="the weight average is kept and returned; the perceptual distance is of two images; eps is reached",
    ),
    Defence(
        "art-dp-instahide",
        "ART DPInstaHideTrainer: mixup, cutout and Laplace noise",
        "Borgnia et al. 2021, arXiv 2103.02079",
        train_dp_instahide,
        INSTAHIDE_OPTIONS,
        Claim(metric="none", threat="poisoned training data and backdoors"),
        ours=False,
    ),
    Defence(
        "art-label-smoothing",
        "ART LabelSmoothing of the training labels",
        "Warde-Farley and Goodfellow 2016, Perturbations, Optimization, and Statistics, chapter 11",
        train_label_smoothing,
        LABEL_SMOOTHING_OPTIONS,
        robust_accuracy("evasion within eps", "what it gains at the smaller eps lies within the sampling error"),
        ours=False,
    ),
    Defence(
        "art-distillation",
        "ART DefensiveDistillation as shipped: no temperature",
        _DISTILLATION_PAPER,
        train_distillation,
        DISTILLATION_OPTIONS,
        robust_accuracy("evasion within eps", "without a temperature the soft labels are nearly hard ones"),
        ours=False,
    ),
    Defence(
        "art-distillation-fixed",
        "ART DefensiveDistillation, repaired",
        _DISTILLATION_PAPER,
        train_distillation_fixed,
        DISTILLATION_FIXED_OPTIONS,
        robust_accuracy(
            "evasion within eps", "it hides the gradient of cross-entropy only: attacks on margins see through"
        ),
        repaired="both networks are trained at the paper's temperature, and predict at 1",
    ),
)

# ART looks at these late, in the middle of a training, or never.
_ABOVE_ZERO = {"alpha", "learning_rate", "max_value", "mixup_alpha", "proxy_learning_rate", "sigma", "temperature"}
_AT_MOST_ONE = {
    "cutoff",
    "cutout_fraction",
    "final_weight",
    "loss_weighting",
    "max_value",
    "prob",
    "ramp",
    "ratio",
    "tau",
}


def _check_numbers(options: Options) -> None:
    for name in _ABOVE_ZERO & options.keys():
        check_number(name, options[name], 0.0, exclusive=True)
    for name in _AT_MOST_ONE & options.keys():
        check_number(name, options[name], 0.0)
        if options[name] > 1:
            raise ValueError(f"`{name}` is {options[name]!r}; expected a number from 0 to 1.")


ARTS = tuple(
    replace(defence, check=_check_numbers)
    for defence in (
        *_TRAINERS,
        *BOUNDED_ROWS,
        *SMOOTHED_ROWS,
        *map(_preprocessed, PREPROCESSING_ROWS),
        *map(_postprocessed, POSTPROCESSING_ROWS),
    )
)

# What ART ships for PyTorch beside these, by the names of its classes, and why it is no row.
NO_ROWS = {
    "Cutout, Mixup, CutMix": "augmentation of training data, against poisoned images; art-dp-instahide trains with it",
    "ThermometerEncoding": "needs a network of its own, with an input channel for each level",
    "PixelDefend": "needs a generative model of the images (PixelCNN), which ART does not ship",
    "Resample, Mp3Compression, VideoCompression": "for sound and video",
    "DeRandomizedSmoothing, ObjectSeeker": "certify against patches, which no attack here puts into images",
    "BinaryInputDetector, BinaryActivationDetector, SubsetScanningDetector, BeyondDetector": "detectors: they refuse "
    "images and label none, so that robust accuracy says nothing of them",
    "NeuralCleanse, STRIP, ActivationDefence, ProvenanceDefense, RONIDefense, SpectralSignatureDefense": "against "
    "backdoors and poisoned training data",
}
