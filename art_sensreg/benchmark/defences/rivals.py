"""Defences of other authors that train with this package's loop, adversaries and penalties."""

from __future__ import annotations

from dataclasses import replace

from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.adversaries import FGSMPGI, FGSMRS, NFGSM, PGD, TRADES, Free, NuAT
from art_sensreg.benchmark.defences.factories import from_penalties
from art_sensreg.benchmark.defences.spec import Defence, Options
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.models import ACTIVATIONS, MODELS
from art_sensreg.penalties import GradientAlignmentPenalty, GradientNormPenalty, LogitPairingPenalty
from art_sensreg.penalty_lists import Penalty
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.utils import check_choice

_MADRY = "Madry et al. 2018, arXiv 1706.06083"
_ZHANG = "Zhang et al. 2019, arXiv 1901.08573"
_WU = "Wu et al. 2020, arXiv 2004.05884"

_LINF = ("linf",)
_STEEPEST = ("linf", "l2")
_SIZES: Options = {"eps": None, "eps_step": None}
_FGSM: Options = {**_SIZES, "clean_fraction": 0.0}
_PGD: Options = {**_FGSM, "max_iter": 7, "norm": None}
_TRADES: Options = {**_SIZES, "max_iter": 10, "norm": None, "beta": 6.0}
_NUAT: Options = {**_SIZES, "weight": 4.5}


def _no_penalties(options: Options) -> list[Penalty]:
    return []


def _some(options: Options, names: Options) -> Options:
    return {name: options[name] for name in names}


def _pgd(options: Options) -> PGD:
    return PGD(**_some(options, _PGD))


def _trades(options: Options) -> TRADES:
    return TRADES(**_some(options, _TRADES))


def _gradient_norm(options: Options) -> list[Penalty]:
    dual = {"linf": "l1", "l2": "l2"}
    return [GradientNormPenalty(weight=options["weight"] * options["eps"], norm=dual[options["norm"]])]


def _smooth_model(spec: TrainingSpec, options: Options) -> nn.Module:
    model = replace(spec, activation=options["activation"]).new_model()
    if spec.model not in MODELS and any(isinstance(module, nn.ReLU) for module in model.modules()):
        raise NotApplicable("gradnorm needs a smooth activation, such as SiLU; the network that was given has ReLU")
    return model


def _free(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    replays = options["replays"]
    passes = spec.epochs // replays
    if passes < 1:
        raise NotApplicable(
            f"free needs {replays} epochs for one pass with as many replays; this run has {spec.epochs}"
        )
    adversary = Free(eps=options["eps"], eps_step=options["eps_step"], replays=replays)
    trainer = SensRegTrainer(
        spec.trainee(spec.new_model()), [], replace(spec.config(), nb_epochs=passes), adversary=adversary
    )
    return replace(spec, epochs=passes * replays).fit(trainer)


RIVALS = (
    from_penalties(
        "at",
        "Adversarial training by PGD on the whole batch",
        _MADRY,
        _no_penalties,
        _PGD,
        adversary=_pgd,
        norms=_STEEPEST,
    ),
    from_penalties(
        "trades",
        "TRADES: clean loss plus the divergence of adversarial from clean predictions",
        _ZHANG,
        _no_penalties,
        _TRADES,
        adversary=_trades,
        norms=_STEEPEST,
    ),
    from_penalties(
        "at-awp",
        "The same as at, with adversarial weight perturbation",
        f"{_MADRY}; {_WU}",
        _no_penalties,
        {**_PGD, "awp_gamma": 0.01, "penalty_warmup": 0.5},
        adversary=_pgd,
        norms=_STEEPEST,
    ),
    from_penalties(
        "trades-awp",
        "The same as trades, with adversarial weight perturbation",
        f"{_ZHANG}; {_WU}",
        _no_penalties,
        {**_TRADES, "awp_gamma": 0.005, "penalty_warmup": 0.5},
        adversary=_trades,
        norms=_STEEPEST,
    ),
    from_penalties(
        "fgsm-rs",
        "FGSM from a random start on the whole batch",
        "Wong et al. 2020, arXiv 2001.03994",
        _no_penalties,
        _FGSM,
        adversary=lambda options: FGSMRS(**_some(options, _FGSM)),
        norms=_LINF,
    ),
    from_penalties(
        "gradalign",
        "FGSM with GradAlign: input gradients at an image and near it point the same way",
        "Andriushchenko, Flammarion 2020, arXiv 2007.02617",
        lambda options: [GradientAlignmentPenalty(weight=options["weight"], eps=options["eps"])],
        {**_FGSM, "weight": 0.2, "penalty_warmup": 0.5},
        adversary=lambda options: NFGSM(**_some(options, _FGSM), noise=0.0),
        norms=_LINF,
    ),
    from_penalties(
        "fgsm-pgi",
        "FGSM-PGI: a step from the perturbation of the previous epoch, which may not move the logits far",
        "Jia et al. 2022, arXiv 2207.08859",
        lambda options: [LogitPairingPenalty(weight=options["weight"])],
        {**_FGSM, "weight": 10.0},
        adversary=lambda options: FGSMPGI(**_some(options, _FGSM)),
        norms=_LINF,
    ),
    Defence(
        "free",
        "Free adversarial training: steps on a batch move its perturbation; epochs are divided by replays",
        "Shafahi et al. 2019, arXiv 1904.12843",
        {**_SIZES, "replays": 4},
        training=_free,
        norms=_LINF,
    ),
    from_penalties(
        "nuat",
        "Nuclear norm of what a single step does to the logits, beside the clean loss; the weight rises",
        "Sriramanan et al. 2021, NeurIPS (NuAT)",
        _no_penalties,
        {**_NUAT, "penalty_warmup": 0.9},
        adversary=lambda options: NuAT(**_some(options, _NUAT)),
        norms=_LINF,
    ),
    from_penalties(
        "gradnorm",
        "GradNorm: the norm of the input gradient of the loss, with a smooth activation; weight counts in eps",
        "Rodriguez-Munoz et al. 2024, arXiv 2409.20139",
        _gradient_norm,
        {"weight": 1.0, "eps": None, "norm": None, "activation": "silu", "penalty_warmup": 0.5},
        architecture=_smooth_model,
        check=lambda options: check_choice("activation", options["activation"], tuple(ACTIVATIONS)),
        norms=_STEEPEST,
    ),
)
