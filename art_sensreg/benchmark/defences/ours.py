"""The defences of this package as rows of the suite."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, Adversary
from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.factories import config_of, from_penalties, from_trainer
from art_sensreg.benchmark.defences.spec import Options, RandomRow
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.penalties import FisherRaoPenalty, GradientDiversityPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.penalty_lists import Penalty
from art_sensreg.randomization import BayesianKL, randomize
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import CHEAP_FRACTION

# --- SR and JR --------------------------------------------------------------------------------------------------------


def _sensitivity_options() -> Options:
    """The options of `SensitivityPenalty`; its weight is called `sr_weight` because JR has one too."""
    defaults = {f.name: f.default for f in fields(SensitivityPenalty)}
    return {"sr_weight": None, **{name: value for name, value in defaults.items() if name != "weight"}, "sigma": None}


def _sensitivity(options: Options) -> SensitivityPenalty:
    names = {f.name for f in fields(SensitivityPenalty)} - {"weight"}
    return SensitivityPenalty(weight=options["sr_weight"], **{k: v for k, v in options.items() if k in names})


def _jacobian_alone(options: Options) -> list[Penalty]:
    return [JacobianPenalty(weight=options["jr_weight"], estimator=options["estimator"], probes=options["probes"])]


def _both(options: Options) -> list[Penalty]:
    return [_sensitivity(options), JacobianPenalty(weight=options["jr_weight"])]


# --- hybrids ----------------------------------------------------------------------------------------------------------

_LINF = ("linf",)
_STEEPEST = ("linf", "l2")
_PAIR: Options = {"eps": None, "clean_fraction": 0.5, "pair": "adversarial"}
_WEIGHTS: Options = {"sr_weight": None, "jr_weight": None, "sigma": 0.3}


def _pair(options: Options) -> dict[str, Any]:
    return {name: options[name] for name in _PAIR}


def _fgsm_rs(options: Options) -> Adversary:
    return FGSMRS(**_pair(options))


def _n_fgsm(options: Options) -> Adversary:
    return NFGSM(**_pair(options), noise=options["start_noise"])


def _pgd(options: Options) -> Adversary:
    return PGD(**_pair(options), max_iter=options["max_iter"], norm=options["norm"])


def _trades(options: Options) -> Adversary:
    names = ("eps", "norm", "pair", "max_iter", "beta")
    return TRADES(**{name: options[name] for name in names})


# --- FIRE -------------------------------------------------------------------------------------------------------------


def _fire(options: Options) -> list[Penalty]:
    steps = options["max_iter"]
    step = 2.5 * options["eps"] / max(steps, 1) if options["eps_step"] is None else options["eps_step"]
    return [FisherRaoPenalty(weight=options["weight"], eps=options["eps"], eps_step=step, max_iter=steps)]


# --- randomised networks ----------------------------------------------------------------------------------------------

_RSE: Options = {"first_std": 0.2, "std": 0.1}
_SMALLEST = nn.Linear(1, 1)
_AVERAGED = robust_accuracy("white-box evasion within eps, by attackers who average the model's noise")


def _rse_model(spec: TrainingSpec, options: Options) -> nn.Module:
    return randomize(spec.new_model(), kind="rse", first_std=options["first_std"], std=options["std"])


def _check_rse(options: Options) -> None:
    randomize(_SMALLEST, kind="rse", first_std=options["first_std"], std=options["std"])


def _bayesian_model(spec: TrainingSpec, options: Options) -> nn.Module:
    return randomize(spec.new_model(), kind="bayesian", prior_std=options["prior_std"])


def _pni_model(spec: TrainingSpec, options: Options) -> nn.Module:
    return randomize(spec.new_model(), kind="pni", initial_alpha=options["initial_alpha"])


def _diversity(options: Options) -> list[Penalty]:
    return [GradientDiversityPenalty(weight=options["weight"], kind=options["kind"], samples=options["samples"])]


def _injected(options: Options) -> Adversary:
    return PGD(**{name: options[name] for name in ("eps", "norm", "max_iter", "clean_fraction")})


def _adv_bnn(classifier: PyTorchClassifier, spec: TrainingSpec, options: Options) -> Trainer:
    spec.require_norm(_STEEPEST, "Adv-BNN trains on perturbations in linf or l2 only")
    penalties = [BayesianKL(weight=options["kl_weight"] / len(spec.dataset.x_train))]
    adversary = PGD(eps=options["eps"], max_iter=options["max_iter"], norm=options["norm"])
    return SensRegTrainer(classifier, penalties, config_of(spec), adversary=adversary)


_PAPER = "Fidel et al. 2020, arXiv 2009.11349"

OURS = (
    from_penalties(
        "none",
        "No defence: cross-entropy, the twin of all others",
        "-",
        lambda options: [],
        claim=Claim(metric="none", threat="nobody"),
    ),
    from_penalties(
        "sr",
        "Stochastic sensitivity regularisation",
        _PAPER,
        lambda options: [_sensitivity(options)],
        _sensitivity_options(),
    ),
    from_penalties(
        "jr",
        "Jacobian regularisation by random projection",
        "Hoffman et al. 2019, arXiv 1908.02729",
        _jacobian_alone,
        {"jr_weight": None, "estimator": "projection", "probes": 1},
    ),
    from_penalties(
        "sr+jr",
        "Sensitivity and Jacobian regularisation in one pass",
        _PAPER,
        _both,
        {**_sensitivity_options(), "jr_weight": None},
    ),
    from_penalties(
        "sr+jr-cheap",
        "The same with noisy copies of a part of each batch",
        _PAPER,
        _both,
        {**_sensitivity_options(), "jr_weight": None, "penalty_fraction": CHEAP_FRACTION},
    ),
    from_penalties(
        "fgsm-rs+sr+jr",
        "FGSM from a random start, with SR and JR between clean and adversarial images",
        f"Wong et al. 2020, arXiv 2001.03994; {_PAPER}",
        _both,
        {**_PAIR, **_WEIGHTS},
        adversary=_fgsm_rs,
        norms=_LINF,
    ),
    from_penalties(
        "n-fgsm",
        "N-FGSM on half of each batch's loss: noise, then one step",
        "de Jorge et al. 2022, arXiv 2202.01181",
        lambda options: [],
        {**_PAIR, "start_noise": 2.0},
        adversary=_n_fgsm,
        norms=_LINF,
    ),
    from_penalties(
        "n-fgsm+sr+jr",
        "N-FGSM, with SR and JR between clean and adversarial images",
        f"de Jorge et al. 2022, arXiv 2202.01181; {_PAPER}",
        _both,
        {**_PAIR, **_WEIGHTS, "start_noise": 2.0},
        adversary=_n_fgsm,
        norms=_LINF,
    ),
    from_penalties(
        "at+sr+jr",
        "Adversarial training by PGD, with SR and JR between clean and adversarial images",
        f"Madry et al. 2018, arXiv 1706.06083; {_PAPER}",
        _both,
        {**_PAIR, **_WEIGHTS, "max_iter": 7, "norm": None},
        adversary=_pgd,
        norms=_STEEPEST,
    ),
    from_penalties(
        "trades+sr+jr",
        "TRADES, with SR and JR between clean and adversarial images",
        f"Zhang et al. 2019, arXiv 1901.08573; {_PAPER}",
        _both,
        {"eps": None, "pair": "adversarial", **_WEIGHTS, "max_iter": 7, "beta": 6.0, "norm": None},
        adversary=_trades,
        norms=_STEEPEST,
    ),
    from_penalties(
        "fire",
        "FIRE: squared Fisher-Rao distance to the worst prediction nearby",
        "Picot et al. 2022, arXiv 2106.06685",
        _fire,
        {"weight": None, "eps": None, "eps_step": None, "max_iter": 10},
        norms=_LINF,
    ),
    from_penalties(
        "rse",
        "Random self-ensemble: noise before every convolution, at test time too",
        "Liu et al. 2018, arXiv 1712.00673",
        lambda options: [],
        _RSE,
        replace(_AVERAGED, unmet="what it gains over the undefended model is within the sampling error"),
        architecture=_rse_model,
        check=_check_rse,
        random=RandomRow(),
    ),
    from_penalties(
        "graddiv",
        "GradDiv: the same noise, and gradients of its draws pushed apart",
        "Lee et al. 2022, arXiv 2107.02425",
        _diversity,
        {**_RSE, "weight": None, "kind": "kappa", "samples": 4, "penalty_warmup": 0.5},
        replace(_AVERAGED, over="rse", unmet="what it gains over rse is within the sampling error"),
        architecture=_rse_model,
        check=_check_rse,
        random=RandomRow(),
    ),
    from_trainer(
        "adv-bnn",
        "Adv-BNN: Gaussian weights trained on PGD examples; kl_weight is the factor of KL/N, far below the paper's 1",
        "Liu et al. 2019, arXiv 1810.01279",
        _adv_bnn,
        {"eps": None, "max_iter": 7, "norm": None, "prior_std": 0.1, "kl_weight": None},
        _AVERAGED,
        architecture=_bayesian_model,
        check=lambda options: randomize(_SMALLEST, kind="bayesian", prior_std=options["prior_std"]),
        random=RandomRow(),
    ),
    from_penalties(
        "pni",
        "Parametric noise injection: learned noise on the weights, trained on clean and PGD examples",
        "He et al. 2019, arXiv 1811.09310",
        lambda options: [],
        {"eps": None, "max_iter": 7, "norm": None, "initial_alpha": 0.25, "clean_fraction": 0.5},
        _AVERAGED,
        adversary=_injected,
        norms=_STEEPEST,
        architecture=_pni_model,
        check=lambda options: randomize(_SMALLEST, kind="pni", initial_alpha=options["initial_alpha"]),
        random=RandomRow(),
    ),
)
