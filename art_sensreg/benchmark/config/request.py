"""The request for a run of the suite: filled in by the command line, or in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.config.optimization import OptimizationSettings


@dataclass(frozen=True, kw_only=True)
class SuiteRequest:
    """
    A request for a run of the suite. Fields that are None follow the data set's recipe or the budget.

    :param dataset: `digits`, `mnist`, `cifar10`; the path of an `.npz` file or a folder of images; or
        `FILE.py:FUNCTION`, which returns the arrays of such a file.
    :param data_dir: Folder with `mnist.npz` and `cifar10.npz`; None: the environment variable `ART_SENSREG_DATA`, and
        without it ART's own download.
    :param defences: Names of the defences; None: the main ones at smoke budget, else all.
    :param attacks: Names of the attacks; None: by budget.
    :param norms: Some of `linf`, `l2`, `l1`.
    :param eps: Attack sizes, one group for each norm. The largest of the first is the training size of adversarial
        training.
    :param all_points: Whether every attack sees every image, not only those left by cheaper ones.
    :param audit: Whether to audit every trained model.
    :param interpret: Whether to score the explanations of every model, and plot those of three.
    :param model: Name of the architecture, or the user's own: `FILE.py:FUNCTION`, `timm:NAME`, `torchvision:NAME` or
        `robustbench:NAME`.
    :param weights: File with the weights that every defence begins its training with; None: random ones, or those that
        the user's own network brings.
    :param activation: `relu`, `gelu`, `silu` or `softplus`.
    :param norm_layer: `none` or `batch`.
    :param options: Options of single defences, `{defence: {option: value}}`.
    :param budget: Strength of the attacks: `smoke`, `quick` or `full`; None: `smoke` on the digits, else `quick`.
    :param seeds: Number of training seeds, from 0.
    :param epochs: Passes over the training data.
    :param batch_size: Examples per training step.
    :param learning_rate: Peak of the schedule.
    :param optimization: Optimizer, weight decay, label smoothing, schedule and weight average of every defence.
    :param train_size: Use the first so many training images.
    :param test_size: Attack the first so many test images.
    :param validation: Whether to attack held-out training images instead, for choosing settings.
    :param device: `auto`, `cpu` or `cuda`.
    :param out: Output folder; None: `results/DATASET-TIME`.
    :param resume: Whether to continue the run in `out`, keeping what is finished.
    :param jobs: Processes that attack models in parallel, on the CPU; None: all cores on the digits (unless
        `OMP_NUM_THREADS` is set), else 1.
    :param verbose: Whether to show a progress bar.

    Example:
    >>> from art_sensreg.benchmark import SuiteRequest
    >>> SuiteRequest(defences=("none", "sr+jr"), eps=((0.1, 0.2),)).dataset
    'digits'
    """

    dataset: str = "digits"
    data_dir: str | Path | None = None
    defences: tuple[str, ...] | None = None
    attacks: tuple[str, ...] | None = None
    norms: tuple[str, ...] = ("linf",)
    eps: tuple[tuple[float, ...], ...] | None = None
    all_points: bool = False
    audit: bool = False
    interpret: bool = False
    model: str | None = None
    weights: str | None = None
    activation: str = "relu"
    norm_layer: str = "none"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budget: str | None = None
    seeds: int = 1
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimization: OptimizationSettings = OptimizationSettings()  # noqa: RUF009 - frozen
    train_size: int | None = None
    test_size: int | None = None
    validation: bool = False
    device: str = "auto"
    out: str | Path | None = None
    resume: bool = False
    jobs: int | None = None
    verbose: bool = True
