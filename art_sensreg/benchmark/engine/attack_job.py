"""What attacking one cell needs: the data, the trained defence, and what is stored of it already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.benchmark.attacks import ordered
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.config.threat_models import NOISE_DRAWS, random_noise
from art_sensreg.benchmark.engine.target import Cell
from art_sensreg.benchmark.results.store import Records
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.training.distributed import Processes
from art_sensreg.utils.rng import seed_everything

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """
    What attacking one cell needs.

    :param settings: Settings of the run.
    :param dataset: The data.
    :param records: Where outcomes go.
    :param run: The record of the cell.
    :param cell: The trained defence.
    :param surrogates: Other trained models of the same seed, by the name of their defence.
    :param processes: Those that share the work.
    :param clean: Which images are rightly classified unattacked, `(n,)`; False of images that are not attacked at all.
    """

    settings: SuiteSettings
    dataset: Dataset
    records: Records
    run: Row
    cell: Cell
    surrogates: dict[str, SensRegClassifier] = field(default_factory=dict)
    processes: Processes = Processes()  # noqa: RUF009 - frozen
    clean: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @property
    def order(self) -> list[str]:
        """The attacks in the order in which they run."""
        return ordered(self.settings.attacks, both_views=len(self.cell.views) > 1)

    def find(self, attack: str, norm: str, eps: float, view: str) -> Row | None:
        """
        The stored row of an attack, if its outcome can be read.

        :param attack: Name of the attack.
        :param norm: Name of the norm.
        :param eps: Size.
        :param view: Name of the view.
        :return: The row, or None.
        """
        rows = [row for row in self.run["attacks"] if key(row) == (attack, norm, eps, view)]
        return rows[0] if rows and self.records.has_mask(rows[0]["mask"], len(self.dataset.x_test)) else None


def key(row: Row) -> tuple[str, str, float, str]:
    """
    What a row of attacks is found by.

    :param row: The row.
    :return: Attack, norm, eps and view.

    Example:
    >>> from art_sensreg.benchmark.engine.attack_job import key
    >>> key({"attack": "pgd", "norm": "linf", "eps": 0.1})
    ('pgd', 'linf', 0.1, 'default')
    """
    return row["attack"], row["norm"], row["eps"], row.get("view", "default")


def survivors(job: Job, view: str, attack: str, norm: str, eps: float) -> np.ndarray:
    """
    The images that are left for an attack: those that are right and that no attack before it broke.

    :param job: What to do.
    :param view: Name of the view.
    :param attack: Name of the attack.
    :param norm: Name of the norm.
    :param eps: Size.
    :return: Boolean array `(n,)`; the rightly classified images if every attack is to see all.
    """
    left = job.clean.copy()
    if job.settings.all_points:
        return left
    order = job.order
    for name in order[: order.index(attack)]:
        row = job.find(name, norm, eps, view)
        if row is not None:
            left &= job.records.read_mask(row["mask"])[0]
    return left


def measure_noise(job: Job) -> None:
    """
    Store the accuracy under random noise of each size, the mean over ten draws.

    :param job: What to do.
    """
    n = job.cell.attackable(len(job.dataset.x_test))
    x, y = job.dataset.x_test[:n], job.dataset.y_test[:n]
    sizes = [(threat.norm, eps) for threat in job.settings.threats for eps in threat.eps]
    if [(row["norm"], row["eps"]) for row in job.run.get("random_noise", [])] == sizes:
        return
    rows = []
    for norm, eps in sizes:
        seed_everything("random noise", job.run["seed"], norm, eps)
        hits = [
            predicted_labels(job.cell.default, random_noise(x, norm, eps, seed)) == y for seed in range(NOISE_DRAWS)
        ]
        rows.append({"norm": norm, "eps": eps, "accuracy": float(np.mean(hits)), "n": n})
    job.run["random_noise"] = rows
