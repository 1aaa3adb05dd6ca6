"""`fit` and `fit_generator` of a classifier with penalties, as called by users and by ART's trainers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from art_sensreg.art_bridge.fit import FitOptions, fit_arrays, fit_batches, with_given
from art_sensreg.art_bridge.loaders import BatchAdapter
from art_sensreg.penalty_lists import Penalty, check_penalties
from art_sensreg.training.callbacks import History
from art_sensreg.training.config import TrainingConfig
from art_sensreg.utils import warn_caller
from art_sensreg.utils.checks import check_known

# ART's metaclass wraps a `fit` of its classifiers to convert lists to arrays, and fails on ragged ones or a missing `y`
# with numpy's own errors, before ours can name the argument. That of a base class is left alone.
if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object


class TrainInterface(_Base):
    """
    Training of a classifier with penalties: a base class in front of ART's `PyTorchClassifier`.

    :param penalties: The penalties; None: not given, about which the first `fit` warns.
    """

    history: History

    def __init__(self, *args: Any, penalties: Sequence[Penalty] | None = None, **kwargs: Any) -> None:
        self._penalties = None if penalties is None else check_penalties(penalties)
        self.history = []
        super().__init__(*args, **kwargs)

    @property
    def penalties(self) -> tuple[Penalty, ...]:
        """The penalties that `fit` trains with."""
        return self._penalties or ()

    @penalties.setter
    def penalties(self, penalties: Sequence[Penalty]) -> None:
        self._penalties = check_penalties(penalties)

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        training_mode: bool = True,
        drop_last: bool | None = None,
        scheduler: Any = None,
        verbose: bool = True,
        validation_data: Any = None,
        seed: int | None = None,
        config: TrainingConfig | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Train on `(x, y)` with this classifier's loss, optimizer and penalties; the record goes to `history`.

        The arguments are ART's, in its order, plus some more. By default ART's classifier trains for 10 epochs without
        a progress bar; this one, like `SensRegTrainer`, trains for 20 epochs with one.

        :param x: Images `(n, *input_shape)`, floating point, finite, within `clip_values`; a memory-mapped array is
            read batch by batch.
        :param y: Class indices `(n,)`, or class probabilities `(n, nb_classes)`, one-hot or soft.
        :param batch_size: Size of a batch; the config's (default 128) if None.
        :param nb_epochs: Passes over the data; the config's (default 20) if None.
        :param training_mode: Whether the model trains in training mode.
        :param drop_last: Whether an incomplete last batch is left out; the config's (default False) if None.
        :param scheduler: Any torch learning rate scheduler; see `TrainingConfig.scheduler_interval`.
        :param verbose: Whether a progress bar is shown.
        :param validation_data: Images and labels that are scored after every epoch: a pair, or a loader as for
            `fit_generator`.
        :param seed: See `TrainingConfig.seed`.
        :param config: All other settings; the arguments above take precedence.
        :param checkpoint_dir: Folder for checkpoints, or None.
        :param resume: Whether to continue from the newest checkpoint in it, if there is one.
        :param kwargs: Not supported: an unknown argument is an error.
        :raises TypeError: If an argument is unknown or has the wrong type.
        :raises ValueError: If an argument is out of range; no weight has changed then.
        """
        check_known("fit()", kwargs, self.fit)
        settings = with_given(
            TrainingConfig() if config is None else config,
            batch_size=batch_size,
            nb_epochs=nb_epochs,
            drop_last=drop_last,
            seed=seed,
        )
        options = FitOptions(
            validation_data=validation_data,
            scheduler=scheduler,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            verbose=verbose,
            training_mode=training_mode,
        )
        self.history = fit_arrays(self, self._penalties_to_train_with(), settings, x, y, options)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int | None = None,
        verbose: bool = True,
        validation_data: Any = None,
        scheduler: Any = None,
        seed: int | None = None,
        config: TrainingConfig | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        batch_adapter: BatchAdapter | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Train on batches drawn from a loader; the record goes to `history`.

        :param generator: One of ART's data generators with a known `size`, or a torch `DataLoader`. The batches of a
            `DataLoader` over an `IterableDataset` without a length are counted first.
        :param nb_epochs: As for `fit`.
        :param verbose: As for `fit`.
        :param validation_data: As for `fit`.
        :param scheduler: As for `fit`.
        :param seed: As for `fit`; the order of the batches is the loader's own.
        :param config: As for `fit`.
        :param checkpoint_dir: As for `fit`.
        :param resume: As for `fit`, from the start of an epoch.
        :param batch_adapter: Function that turns a batch into a pair of images and labels, if it is something else:
            `lambda batch: (batch["image"], batch["label"])`. It is applied to batches of a validation loader too.
        :param kwargs: Not supported: an unknown argument is an error.
        :raises TypeError: If an argument is unknown or has the wrong type.
        :raises ValueError: If an argument is out of range, or the first batch is unusable.
        """
        check_known("fit_generator()", kwargs, self.fit_generator)
        settings = with_given(TrainingConfig() if config is None else config, nb_epochs=nb_epochs, seed=seed)
        options = FitOptions(
            validation_data=validation_data,
            scheduler=scheduler,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            verbose=verbose,
            batch_adapter=batch_adapter,
        )
        self.history = fit_batches(self, self._penalties_to_train_with(), settings, generator, options)

    def _penalties_to_train_with(self) -> tuple[Penalty, ...]:
        if self._penalties is None:
            self._penalties = ()  # the warning has been given
            warn_caller(
                f"`penalties=` was not given to this {type(self).__name__}, which trains like ART's own classifier. "
                "Give it penalties, `presets.sr_jr()` say; or `penalties=[]` if none are wanted."
            )
        return self._penalties
