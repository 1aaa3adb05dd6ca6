"""Results that tests of what is made of them share."""

from pathlib import Path

import numpy as np

from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.results.entries import AttackRecord, WorstCase
from art_sensreg.benchmark.results.masks import mask_name, write_mask
from art_sensreg.benchmark.results.records import Results, RunRecord


def settings(**changes) -> SuiteSettings:
    values = {
        "dataset": "digits", "defences": ("none", "sr", "jr"), "attacks": ("fgm", "pgd"),
        "threats": (Threat("linf", (0.1, 0.2)),), "model": "mlp", "activation": "relu", "norm_layer": "none",
        "budget": "smoke", "seeds": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.003, "train_size": None,
        "test_size": 5, "validation": False, "data_crc32": 1, "device": "cpu",
    }  # fmt: skip
    return SuiteSettings(**{**values, **changes})


def run_record(**changes) -> RunRecord:
    values = {"defence": "none", "dataset": "digits", "seed": 0, "clean_accuracy": 0.9, "train_seconds": 1.0}
    return RunRecord(**{**values, **changes})


def results(*runs: RunRecord, **changes) -> Results:
    return Results(config=settings(**changes), environment={"python": "3"}, runs=runs)


def attacked(out: Path, attack: str, robust, attacked=None, norm: str = "linf", eps: float = 0.1) -> AttackRecord:
    """The record of an attack, with its mask in the folder."""
    robust = np.array(robust, dtype=bool)
    attacked = np.ones(len(robust), dtype=bool) if attacked is None else np.array(attacked, dtype=bool)
    name = mask_name(attack, norm, eps)
    (out / "masks").mkdir(exist_ok=True, parents=True)
    write_mask(out, name, robust, attacked)
    share = float(robust[attacked].mean())
    return AttackRecord(attack=attack, norm=norm, eps=eps, robust_accuracy=share, n=int(attacked.sum()), mask=name)


def case(share: float, eps: float = 0.1, n: int = 200, norm: str = "linf") -> WorstCase:
    return WorstCase(norm=norm, eps=eps, robust_accuracy=share, ci_low=0.0, ci_high=1.0, n=n)
