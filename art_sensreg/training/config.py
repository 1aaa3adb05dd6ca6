"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from art_sensreg.penalties.base import check_choice, check_count, check_number


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """
    Settings of a training run; its `repr` is the call that makes it.

    :param batch_size: Rows of a step, at least 1.
    :param nb_epochs: Passes over the data, at least 1.
    :param seed: Seed of the order of the batches, the noise of the penalties and the model's own randomness (dropout).
        None takes one from torch's global generator, so that `torch.manual_seed` governs it.
    :param drop_last: Whether an incomplete last batch is left out.
    :param scheduler_interval: When a learning rate scheduler steps: `epoch`, `step`, or `auto`: after every step for
        `OneCycleLR` (unless its length is the number of epochs) and `CyclicLR`, else after every epoch.
    :param max_grad_norm: Largest norm of the gradient of all weights together (clipped above it), or None.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting is of a wrong type.

    Example:
    >>> from art_sensreg import TrainingConfig
    >>> TrainingConfig(nb_epochs=3, seed=0)
    TrainingConfig(batch_size=128, nb_epochs=3, seed=0, drop_last=False, scheduler_interval='auto', max_grad_norm=None)
    """

    batch_size: int = 128
    nb_epochs: int = 20
    seed: int | None = None
    drop_last: bool = False
    scheduler_interval: str = "auto"
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        check_count("nb_epochs", self.nb_epochs)
        if self.seed is not None:
            check_count("seed", self.seed, minimum=0)
            if self.seed >= 2**63:
                raise ValueError(f"`seed` is {self.seed}; expected a whole number below 2**63.")
        check_choice("scheduler_interval", self.scheduler_interval, ("auto", "epoch", "step"))
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, minimum=0.0, exclusive=True)
