"""Settings of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from art_sensreg.training.batches.augmentation import Augmentation
from art_sensreg.training.callbacks import Callback, check_callbacks
from art_sensreg.training.overfitting import ACTIONS
from art_sensreg.training.validation import ValidationAttack
from art_sensreg.utils import check_choice, check_count, check_flag, check_number, check_seed, python_numbers

PRECISIONS = ("float32", "bfloat16", "float16")
MONITORS = ("val_robust_accuracy", "val_accuracy", "val_loss", "accuracy", "loss")

CHEAP_FRACTION = 1 / 3
"""`penalty_fraction` of the cheap mode: docs/results/step-cost.md has its cost, and its effect on robustness."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """
    Settings of a training run; its `repr` is the call that creates it.

    :param batch_size: Examples per step, at least 1; with several processes, of all of them together.
    :param nb_epochs: Passes over the data, at least 1.
    :param seed: Seed of the order of the batches, the noise of the penalties and the model's own randomness (dropout).
        None takes one from torch's global generator, so that `torch.manual_seed` governs it.
    :param accumulate: Batches whose gradients are accumulated for one optimizer step, at least 1: the step of a batch
        that many times as large, at the memory of one. Whatever counts steps (schedulers, callbacks,
        `checkpoint_every`) counts those of the optimizer.
    :param clip_tolerance: Image values that are outside the classifier's `clip_values` by at most this much, in input
        units, are clipped: bicubic interpolation overshoots. By default (0) they are an error.
    :param drop_last: Whether an incomplete last batch is left out.
    :param augmentation: How training images are cropped, flipped and cut out at random, an :class:`Augmentation`, or
        None. What a carried adversary keeps stays with the pixels of the original image. Validation data stay as they
        are.
    :param penalty_fraction: Share of each batch, above 0 and at most 1, that gets noisy copies: below 1 it is the cheap
        mode. Of an adversary's pairs (`pair="start"` or `"adversarial"`) it is the share that is compared. Penalties
        with gradients with respect to the input, your own, those that compare clean with adversarial images where
        other terms need both, pairs of an adversary whose loss is of the whole batch, BatchNorm in training mode or
        dropout with such pairs, and models with other randomness of their own use the whole batch anyway.
    :param penalty_warmup: Share of the run, from 0 to 1, over which the weights of all penalties, the weight of the
        adversary `NuAT`, and `awp_gamma` rise from 0 to their full value: for what keeps an untrained network from
        learning.
    :param eps_warmup: Share of the run, from 0 to 1, over which the adversary's `eps` and `eps_step` rise from almost 0
        to their full value, as in training with interval bounds (Gowal et al. 2018, arXiv 1810.12715, section 3): of
        images that are perturbed in full, an untrained network may learn no more than to predict one class.
        Perturbations that are kept from epoch to epoch rise with it.
    :param scheduler_interval: When a learning rate scheduler steps: `epoch`, `step`, or `auto`: after every step for
        `OneCycleLR` (unless its length is the number of epochs), `CyclicLR`, and schedules about as long as the run has
        steps; else after every epoch. Where that would leave a warm-up unfinished at the end of the run, `auto` is
        refused.
    :param scheduler_monitor: The entry of the history that `ReduceLROnPlateau` monitors, or None: the accuracy for its
        mode `max`, else the loss, on validation data if there are any.
    :param max_grad_norm: Largest norm of the gradient of all parameters in the optimizer (clipped above it), or None.
    :param ema: Decay of an exponential moving average of the weights, above 0 and below 1, which is validated and
        returned in place of the weights; or None.
    :param ema_warmup: Whether the decay begins lower and rises to `ema`: in step `t`, from 0, it is at most
        `(1 + t) / (10 + t)`. For runs that have few steps beside the `1 / (1 - ema)` that are averaged over.
    :param awp_gamma: Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884): the gradient of each step is
        taken again at weights moved by this share of their norm in the direction in which the loss rises, with the same
        perturbed images. The paper: 0.005 to 0.01; 0 switches it off.
    :param precision: `float32`, or `bfloat16` / `float16` for mixed precision with `torch.amp` (float16 with a gradient
        scaler). With penalties that divide by less than `LOW_PRECISION_SIZES` (of `training.numerics.step_module`)
        the steps are computed in float32, which a warning says.
    :param device: Where to train: anything that `torch.device` accepts, index included. The classifier moves there and
        stays there. None: where it is.
    :param channels_last: Whether images and volumes, and weights, use the channels-last layout during training.
        Afterwards the weights have their previous layout.
    :param keep_freed_memory: Whether glibc's allocator keeps freed memory in the process while training on the CPU
        (its settings are restored afterwards). This saves a large part of a step's time: docs/training.md.
    :param compile: Whether the step is compiled by `torch.compile`; not with penalties that need double backward.
    :param checkpoint_every: Steps between two checkpoints, besides those after every epoch. Needs `checkpoint_dir`.
    :param keep: Number of checkpoints that are kept, the newest ones.
    :param on_nonfinite: What to do about a NaN or infinite loss: `stop`, or `skip` the step and count it.
    :param max_skipped: Number of skipped steps after which the run stops anyway.
    :param validation_attack: Attack under which the validation data are scored too, as `val_robust_accuracy`.
    :param monitor: The entry of the history that early stopping and `restore_best` use, or None:
        `val_robust_accuracy` with a validation attack, else `val_accuracy`.
    :param patience: Epochs without a better `monitor` after which training stops, or None.
    :param restore_best: Whether the weights of the epoch with the best `monitor` are returned.
    :param on_catastrophic_overfitting: What to do when adversarial training with one step or two collapses, which is
        checked after every epoch with ten-step PGD on at most 256 validation images (training images if there are no
        validation data): `report` it in log and history; `stop`; `roll_back`: stop and return the weights of the best
        previous epoch; or `ignore`: do not check. With a single step on the loss that is trained (`FGSMRS`, `NFGSM`,
        `CarriedAdversary`, `PGD(max_iter=1)`) it is predicted too: the cosine of input gradients at the start and the
        end of that step (`gradient_cosine` in the history, of every fourth step, at no further pass; with penalties
        that compare both, the gradient at the end is that of the whole loss) falls to 0 before. The warning comes at
        that step; `stop` and `roll_back` act at the end of its epoch.
    :param callbacks: Objects with some of the methods of `training.callbacks.Callback`.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg import TrainingConfig
    >>> config = TrainingConfig(nb_epochs=3, seed=0)
    >>> config.batch_size, eval(repr(config)) == config
    (128, True)
    """

    batch_size: int = 128
    nb_epochs: int = 20
    seed: int | None = None
    accumulate: int = 1
    drop_last: bool = False
    augmentation: Augmentation | None = None
    clip_tolerance: float = 0.0
    penalty_fraction: float = 1.0
    penalty_warmup: float = 0.0
    eps_warmup: float = 0.0
    scheduler_interval: str = "auto"
    scheduler_monitor: str | None = None
    max_grad_norm: float | None = None
    ema: float | None = None
    ema_warmup: bool = False
    awp_gamma: float = 0.0
    precision: str = "float32"
    device: str | torch.device | None = None
    channels_last: bool = False
    keep_freed_memory: bool = True
    compile: bool = False
    checkpoint_every: int | None = None
    keep: int = 2
    on_nonfinite: str = "stop"
    max_skipped: int = 10
    validation_attack: ValidationAttack | None = None
    monitor: str | None = None
    patience: int | None = None
    restore_best: bool = False
    on_catastrophic_overfitting: str = "report"
    callbacks: Sequence[Callback] = ()

    @classmethod
    def cheap(cls, **settings: Any) -> TrainingConfig:
        """
        The cheap mode: noisy copies of only part of each batch, :data:`CHEAP_FRACTION`.

        :param settings: Further settings; a `penalty_fraction` among them takes precedence.
        :return: The config.

        Example:
        >>> from art_sensreg import TrainingConfig
        >>> TrainingConfig.cheap(seed=0) == TrainingConfig(penalty_fraction=1 / 3, seed=0)
        True
        """
        return cls(**{"penalty_fraction": CHEAP_FRACTION, **settings})

    def __post_init__(self) -> None:
        python_numbers(self)
        for name, minimum in (("batch_size", 1), ("nb_epochs", 1), ("accumulate", 1), ("keep", 1), ("max_skipped", 0)):
            check_count(name, getattr(self, name), minimum)
        for name in ("checkpoint_every", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.seed is not None:
            check_seed("seed", self.seed)
        for name in ("drop_last", "channels_last", "keep_freed_memory", "compile", "restore_best", "ema_warmup"):
            check_flag(name, getattr(self, name))
        check_number("penalty_fraction", self.penalty_fraction, minimum=0.0, exclusive=True, maximum=1.0)
        check_number("clip_tolerance", self.clip_tolerance, minimum=0.0)
        for name in ("penalty_warmup", "eps_warmup"):
            check_number(name, getattr(self, name), minimum=0.0, maximum=1.0)
        if self.penalty_warmup and self.compile:
            raise ValueError("`compile` is True with a `penalty_warmup`, which would compile every step anew.")
        check_number("awp_gamma", self.awp_gamma, minimum=0.0)
        check_choice("scheduler_interval", self.scheduler_interval, ("auto", "epoch", "step"))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("on_catastrophic_overfitting", self.on_catastrophic_overfitting, ACTIONS)
        check_choice("on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, minimum=0.0, exclusive=True)
        if self.ema is not None:
            check_number("ema", self.ema, minimum=0.0, exclusive=True, maximum=1.0, below=True)
        elif self.ema_warmup:
            raise ValueError("`ema_warmup` is True and `ema` is None; expected its decay.")
        if self.awp_gamma and self.precision == "float16":
            raise ValueError(
                f"`awp_gamma` is {self.awp_gamma!r} with precision='float16', whose gradient scaler takes one "
                "evaluation of the loss a step; expected 'float32' or 'bfloat16'."
            )
        if self.scheduler_monitor is not None and not isinstance(self.scheduler_monitor, str):
            raise TypeError(f"`scheduler_monitor` is {self.scheduler_monitor!r}; expected an entry of the history.")
        if self.monitor is not None:
            check_choice("monitor", self.monitor, MONITORS)
        if self.augmentation is not None and not isinstance(self.augmentation, Augmentation):
            raise TypeError(f"`augmentation` is {self.augmentation!r}; expected an Augmentation, or None.")
        if self.validation_attack is not None and not isinstance(self.validation_attack, ValidationAttack):
            raise TypeError(f"`validation_attack` is {self.validation_attack!r}; expected a ValidationAttack.")
        if self.device is not None:
            check_device(self.device)
            object.__setattr__(self, "device", str(self.device))
        object.__setattr__(self, "callbacks", check_callbacks(self.callbacks))


def check_device(device: str | torch.device) -> torch.device:
    """
    Make a device of anything that `torch.device` takes: ValueError if torch does not know it, or this machine does not
    have it.
    """
    try:
        found = torch.device(device)
        if found.type == "cpu":
            return found
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`device` is {device!r}; expected a torch device of this machine ({reason}).") from error
    if found.type == "meta":
        raise ValueError(f"`device` is {device!r}; expected a device that holds data.")
    return found
