"""ART's own defences as rows of the suite: as shipped, and `...-fixed` where a defect of ART changes the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark import art_baselines as art
from art_sensreg.benchmark.art_certified import (
    DEEPZ_OPTIONS,
    IBP_FIXED_OPTIONS,
    IBP_OPTIONS,
    certify_deepz,
    certify_ibp,
    train_deepz,
    train_deepz_fixed,
    train_ibp,
    train_ibp_fixed,
)
from art_sensreg.benchmark.art_instahide import INSTAHIDE_OPTIONS, train_dp_instahide
from art_sensreg.benchmark.art_oaat import OAAT_OPTIONS, train_oaat, train_oaat_fixed
from art_sensreg.benchmark.art_smoothing import (
    CERTIFICATE_OPTIONS,
    MACER_OPTIONS,
    SMOOTHADV_FIXED_OPTIONS,
    SMOOTHADV_OPTIONS,
    SMOOTHING_OPTIONS,
    SMOOTHMIX_FIXED_OPTIONS,
    SMOOTHMIX_OPTIONS,
    certify_smoothing,
    smoothed_module,
    train_macer,
    train_smoothadv,
    train_smoothadv_fixed,
    train_smoothing,
    train_smoothmix,
    train_smoothmix_fixed,
)
from art_sensreg.benchmark.art_soft_labels import (
    DISTILLATION_FIXED_OPTIONS,
    DISTILLATION_OPTIONS,
    LABEL_SMOOTHING_OPTIONS,
    train_distillation,
    train_distillation_fixed,
    train_label_smoothing,
)
from art_sensreg.benchmark.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defence import Certificate, Defence, Options, RandomRow
from art_sensreg.benchmark.our_defences import OURS
from art_sensreg.benchmark.postprocessing_rows import POSTPROCESSING_ROWS, NamedPostprocessing
from art_sensreg.benchmark.preprocessing_rows import PREPROCESSING_ROWS, NamedRow
from art_sensreg.benchmark.task import TrainingTask

_LINF = robust_accuracy("white-box evasion within eps in L-inf")
_ANY_NORM = robust_accuracy("white-box evasion within eps in the norm it trains in")
_PGD = {"max_iter": 7}
_CERTIFIED = Claim(metric="certified_accuracy", threat="any evasion within eps in L-inf, provably")

_TRADES_PAPER = "Zhang et al. 2019, arXiv 1901.08573"
_FBF_PAPER = "Wong et al. 2020, arXiv 2001.03994"
_AWP_PAPER = "Wu et al. 2020, arXiv 2004.05884"
_OAAT_PAPER = "Addepalli et al. 2022, arXiv 2210.09852"
_IBP_PAPER = "Gowal et al. 2018, arXiv 1810.12715"
_DISTILLATION_PAPER = "Papernot et al. 2016, arXiv 1511.04508"
_DEEPZ_PAPER = "Singh et al. 2018, NeurIPS; Mirman et al. 2018, ICML"


def _twin(task: TrainingTask, options: Options) -> PyTorchClassifier:
    """The model of `none`, for what trains nothing."""
    return OURS[0].train(task, {})


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

_CERTIFYING = (
    Defence(
        "art-ibp",
        "ART AdversarialTrainerCertifiedIBP as shipped: interval bounds, ART's schedule",
        _IBP_PAPER,
        train_ibp,
        IBP_OPTIONS,
        replace(_CERTIFIED, unmet="with ART's schedule it predicts a constant"),
        ours=False,
        certificate=Certificate(norm="linf", certify=certify_ibp),
    ),
    Defence(
        "art-ibp-fixed",
        "ART AdversarialTrainerCertifiedIBP, repaired",
        _IBP_PAPER,
        train_ibp_fixed,
        IBP_FIXED_OPTIONS,
        _CERTIFIED,
        repaired="a warm-up and enough steps, without which it predicts a constant; convolutions are not unrolled",
        certificate=Certificate(norm="linf", certify=certify_ibp),
    ),
    Defence(
        "art-deepz",
        "ART AdversarialTrainerCertified as shipped: DeepZ zonotopes",
        _DEEPZ_PAPER,
        train_deepz,
        DEEPZ_OPTIONS,
        _CERTIFIED,
        ours=False,
        certificate=Certificate(norm="linf", certify=certify_deepz),
    ),
    Defence(
        "art-deepz-fixed",
        "ART AdversarialTrainerCertified, repaired",
        _DEEPZ_PAPER,
        train_deepz_fixed,
        DEEPZ_OPTIONS,
        _CERTIFIED,
        repaired="zonotopes of images near black or white no longer crash under numpy 2",
        certificate=Certificate(norm="linf", certify=certify_deepz),
    ),
)


def _smoothed(
    name: str,
    summary: str,
    paper: str,
    train: Callable[[TrainingTask, Options], PyTorchClassifier],
    options: Options,
    repaired: str = "",
) -> Defence:
    """A base model trained for randomised smoothing: attacked and scored under its noise, certified in L2."""
    return Defence(
        name,
        summary,
        paper,
        train,
        {**CERTIFICATE_OPTIONS, **options},
        Claim(metric="certified_accuracy", threat="any evasion within eps in L2, with high probability"),
        ours=False,
        repaired=repaired,
        random=RandomRow(module=lambda model, chosen: smoothed_module(model, chosen["sigma"])),
        # With a thousand samples no radius is above 2.5 sigma, whatever the model.
        certificate=Certificate(
            norm="l2", certify=certify_smoothing, sizes=lambda chosen: (chosen["sigma"], 2 * chosen["sigma"])
        ),
    )


_SMOOTHADV_PAPER = "Salman et al. 2019, arXiv 1906.04584"
_SMOOTHMIX_PAPER = "Jeong et al. 2021, arXiv 2111.09277"

_SMOOTHING = (
    _smoothed(
        "art-smoothing",
        "ART RandomizedSmoothing: trained on Gaussian noise, answers by the mean over noise",
        "Cohen et al. 2019, arXiv 1902.02918",
        train_smoothing,
        SMOOTHING_OPTIONS,
    ),
    _smoothed(
        "art-macer",
        "ART MACER: smoothing trained for a large certified radius",
        "Zhai et al. 2020, arXiv 2001.02378",
        train_macer,
        MACER_OPTIONS,
    ),
    _smoothed(
        "art-smoothadv",
        "ART SmoothAdv as shipped: an L-inf attack on predicted labels",
        _SMOOTHADV_PAPER,
        train_smoothadv,
        SMOOTHADV_OPTIONS,
    ),
    _smoothed(
        "art-smoothadv-fixed",
        "ART SmoothAdv, repaired",
        _SMOOTHADV_PAPER,
        train_smoothadv_fixed,
        SMOOTHADV_FIXED_OPTIONS,
        repaired="the L2 attack of the paper, on the true labels, over several noise vectors",
    ),
    _smoothed(
        "art-smoothmix",
        "ART SmoothMix as shipped: an attack that does not move",
        _SMOOTHMIX_PAPER,
        train_smoothmix,
        SMOOTHMIX_OPTIONS,
    ),
    _smoothed(
        "art-smoothmix-fixed",
        "ART SmoothMix, repaired",
        _SMOOTHMIX_PAPER,
        train_smoothmix_fixed,
        SMOOTHMIX_FIXED_OPTIONS,
        repaired="the attack has a step size (ART passes it the failure probability)",
    ),
)

ARTS = (
    *_TRAINERS,
    *_CERTIFYING,
    *_SMOOTHING,
    *map(_preprocessed, PREPROCESSING_ROWS),
    *map(_postprocessed, POSTPROCESSING_ROWS),
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
