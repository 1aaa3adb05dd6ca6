"""The defences of this package."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, Adversary, CarriedAdversary
from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.defences.factories import from_penalties, from_trainer
from art_sensreg.benchmark.defences.spec import Options, Randomness
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.penalties import FisherRaoPenalty, GradientDiversityPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.penalty_lists import Penalty
from art_sensreg.randomization import BayesianKL, randomize
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.config import CHEAP_FRACTION
from art_sensreg.utils import check_number

_PAPER = "Fidel et al. 2020, arXiv 2009.11349"


def _no_penalties(options: Options) -> list[Penalty]:
    return []


# --- SR and JR --------------------------------------------------------------------------------------------------------

# The options of `SensitivityPenalty`; its weight is called `sr_weight` because JR has one too.
_SETTINGS = {f.name: f.default for f in fields(SensitivityPenalty) if f.name != "weight"}
_SENSITIVITY: Options = {"sr_weight": None, **_SETTINGS, "sigma": None}
_JACOBIAN: Options = {"jr_weight": None, "jr_norm": "frobenius", "jr_squared": True}


def _sensitivity(options: Options) -> SensitivityPenalty:
    chosen = {name: options[name] for name in _SETTINGS if options.get(name) is not None}
    return SensitivityPenalty(weight=options["sr_weight"], **chosen)


def _jacobian_alone(options: Options) -> list[Penalty]:
    return [JacobianPenalty(weight=options["jr_weight"], estimator=options["estimator"], probes=options["probes"])]


def _both(options: Options) -> list[Penalty]:
    jacobian = JacobianPenalty(weight=options["jr_weight"], norm=options["jr_norm"], squared=options["jr_squared"])
    return [_sensitivity(options), jacobian]


# --- adversarial training ---------------------------------------------------------------------------------------------

_LINF = ("linf",)
_STEEPEST = ("linf", "l2")
_PAIR: Options = {"eps": None, "clean_fraction": 0.5, "pair": "adversarial"}
_WEIGHTS: Options = {**_SENSITIVITY, **_JACOBIAN, "sigma": 0.3}
# Without an adversary the noise is all there is: the data set's recipe says of which kind it is.
_NOISE: Options = {**_SENSITIVITY, **_JACOBIAN, "noise": None}


def _some(options: Options, *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names}


def _fgsm_rs(options: Options) -> Adversary:
    return FGSMRS(**_some(options, *_PAIR))


def _n_fgsm(options: Options) -> Adversary:
    return NFGSM(**_some(options, *_PAIR), noise=options["start_noise"])


def _pgd(options: Options) -> Adversary:
    return PGD(**_some(options, *_PAIR, "max_iter", "norm"))


def _trades(options: Options) -> Adversary:
    return TRADES(**_some(options, "eps", "norm", "pair", "max_iter", "beta"))


# Trained at `eps_scale` times the size that is attacked; a step is the share `step_share` of that, or `eps_step`.
_CARRIED: Options = {
    "eps": None, "eps_scale": 1.1, "eps_step": None, "step_share": None, "eps_warmup": None, "clean_fraction": 0.0,
    "norm": None,
}  # fmt: skip
_ATTA = "Zheng et al. 2020, arXiv 1912.11969"


def _carried(options: Options) -> Adversary:
    check_number("eps_scale", options["eps_scale"], minimum=0.0, exclusive=True)
    chosen = {
        name: options[name]
        for name in ("eps_step", "clean_fraction", "norm", "pair", "free")
        if options.get(name) is not None
    }
    eps = options["eps"] * options["eps_scale"]
    if options["step_share"] is not None:
        check_number("step_share", options["step_share"], minimum=0.0, exclusive=True)
        chosen.setdefault("eps_step", eps * options["step_share"])
    return CarriedAdversary(eps=eps, **chosen)


def _fire(options: Options) -> list[Penalty]:
    steps = options["max_iter"]
    step = 2.5 * options["eps"] / max(steps, 1) if options["eps_step"] is None else options["eps_step"]
    return [FisherRaoPenalty(weight=options["weight"], eps=options["eps"], eps_step=step, max_iter=steps)]


# --- randomised networks ----------------------------------------------------------------------------------------------

_RSE: Options = {"first_std": 0.2, "std": 0.1}
_SMALLEST = nn.Linear(1, 1)
_AVERAGED = robust_accuracy("white-box evasion within eps, by attackers who average the model's noise")


def _rse(model: nn.Module, options: Options) -> nn.Module:
    return randomize(model, kind="rse", first_std=options["first_std"], std=options["std"])


def _bayesian(model: nn.Module, options: Options) -> nn.Module:
    return randomize(model, kind="bayesian", prior_std=options["prior_std"])


def _pni(model: nn.Module, options: Options) -> nn.Module:
    return randomize(model, kind="pni", initial_alpha=options["initial_alpha"])


def _randomised(make: Any) -> dict[str, Any]:
    """The fields of a defence whose network is made random by a function of the network and the options."""
    return {
        "architecture": lambda spec, options: make(spec.new_model(), options),
        "check": lambda options: make(_SMALLEST, options),
        "random": Randomness(),
    }


def _diversity(options: Options) -> list[Penalty]:
    return [GradientDiversityPenalty(**_some(options, "weight", "kind", "samples"))]


def _pgd_on_noise(options: Options) -> Adversary:
    return PGD(**_some(options, "eps", "norm", "max_iter", "clean_fraction"))


def _adv_bnn(classifier: PyTorchClassifier, spec: TrainingSpec, options: Options) -> Trainer:
    penalties = [BayesianKL(weight=options["kl_weight"] / len(spec.dataset.x_train))]
    adversary = PGD(**_some(options, "eps", "max_iter", "norm"))
    return SensRegTrainer(classifier, penalties, spec.config(), adversary=adversary)


OURS = (
    from_penalties(
        "none",
        "No defence: plain cross-entropy training, the undefended twin of all others",
        "-",
        _no_penalties,
        claim=Claim(metric="none", threat="nobody"),
    ),
    from_penalties(
        "sr",
        "Stochastic sensitivity regularisation",
        _PAPER,
        lambda options: [_sensitivity(options)],
        _SENSITIVITY,
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
        "Sensitivity and Jacobian regularisation in one forward pass",
        _PAPER,
        _both,
        {**_NOISE, "penalty_fraction": None},
    ),
    from_penalties(
        "sr+jr-cheap",
        "The same with noisy copies of a third of each batch",
        _PAPER,
        _both,
        {**_NOISE, "penalty_fraction": CHEAP_FRACTION},
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
        "N-FGSM: noise, then one step",
        "de Jorge et al. 2022, arXiv 2202.01181",
        _no_penalties,
        {**_PAIR, "clean_fraction": 0.0, "start_noise": 2.0},
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
        "carried",
        "One gradient step a visit, from where the perturbation of the image was left in the epoch before",
        _ATTA,
        _no_penalties,
        _CARRIED,
        adversary=_carried,
        norms=_STEEPEST,
    ),
    from_penalties(
        "carried+sr+jr",
        "The same, with SR and JR between the start of the step and its end, on a part of each batch",
        f"{_ATTA}; {_PAPER}",
        _both,
        {**_CARRIED, "pair": None, "free": False, **_WEIGHTS, "penalty_fraction": 0.5, "penalty_warmup": None},
        adversary=_carried,
        norms=_STEEPEST,
    ),
    from_penalties(
        "free+sr+jr",
        "Perturbations moved by the gradient of the training step, with SR and JR at the perturbed images",
        f"{_ATTA}; {_PAPER}",
        _both,
        {**_CARRIED, "pair": None, "free": True, **_WEIGHTS, "penalty_fraction": None},
        adversary=_carried,
        norms=_STEEPEST,
    ),
    from_penalties(
        "fire",
        "FIRE: squared Fisher-Rao distance to the worst-case prediction nearby",
        "Picot et al. 2022, arXiv 2106.06685",
        _fire,
        {"weight": None, "eps": None, "eps_step": None, "max_iter": 10},
        norms=_LINF,
    ),
    from_penalties(
        "rse",
        "Random self-ensemble: noise before every convolution, at test time too",
        "Liu et al. 2018, arXiv 1712.00673",
        _no_penalties,
        _RSE,
        claim=replace(_AVERAGED, unmet="its gain over the undefended model is within the sampling error"),
        **_randomised(_rse),
    ),
    from_penalties(
        "graddiv",
        "GradDiv: the same noise, with the gradients of its draws pushed apart",
        "Lee et al. 2022, arXiv 2107.02425",
        _diversity,
        {**_RSE, "weight": None, "kind": "kappa", "samples": 4, "penalty_warmup": 0.5},
        claim=replace(_AVERAGED, over="rse", unmet="its gain over rse is within the sampling error"),
        **_randomised(_rse),
    ),
    from_trainer(
        "adv-bnn",
        "Adv-BNN: Gaussian weights trained on PGD examples; kl_weight is the factor of KL/N, far below the paper's 1",
        "Liu et al. 2019, arXiv 1810.01279",
        _adv_bnn,
        {"eps": None, "max_iter": 7, "norm": None, "prior_std": 0.1, "kl_weight": None},
        claim=_AVERAGED,
        norms=_STEEPEST,
        norms_reason="Adv-BNN trains on perturbations in linf or l2 only",
        **_randomised(_bayesian),
    ),
    from_penalties(
        "pni",
        "Parametric noise injection: learned noise on the weights, trained on clean and PGD examples",
        "He et al. 2019, arXiv 1811.09310",
        _no_penalties,
        {"eps": None, "max_iter": 7, "norm": None, "initial_alpha": 0.25, "clean_fraction": 0.5},
        claim=_AVERAGED,
        adversary=_pgd_on_noise,
        norms=_STEEPEST,
        **_randomised(_pni),
    ),
)
