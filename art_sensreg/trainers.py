"""ART trainers: check the arguments, build the objective, and call the training loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier

from art_sensreg.adversaries import Adversary
from art_sensreg.adversaries.base import check_adversary
from art_sensreg.art_bridge import (
    BatchAdapter,
    FitOptions,
    fit_arrays,
    fit_batches,
    keep_whole,
    model_dtype,
    number_of_images,
    with_given,
)
from art_sensreg.penalties import FisherRaoPenalty, GradientDiversityPenalty
from art_sensreg.penalties.fisher_rao import FIRE_PRESETS
from art_sensreg.penalty_lists import Penalty, check_penalties, one_penalty
from art_sensreg.presets import default_penalties
from art_sensreg.randomization import BayesianKL, GaussianWeights, draws_differ
from art_sensreg.training.callbacks import History
from art_sensreg.training.config import TrainingConfig
from art_sensreg.utils import check_choice
from art_sensreg.utils.checks import check_known


class SensRegTrainer(Trainer):
    """
    Train any ART PyTorch classifier with penalties: from scratch, or starting from its present weights (fine-tuning).

    | Paper link: https://arxiv.org/abs/2009.11349

    :param classifier: ART `PyTorchClassifier` (or subclass) with an optimizer.
    :param penalties: The penalties. None uses the classifier's own, or if it has none SR and JR with their defaults,
        scaled to its `clip_values` (`presets.sr_jr`); if both are given, these take precedence, with a warning. `[]`
        trains without any.
    :param config: Settings of the run.
    :param adversary: Adversarial training to combine with the penalties: an adversary of `art_sensreg.adversaries`,
        such as `CarriedAdversary(eps=0.1)`; or None.
    :raises TypeError: If the classifier is not a `PyTorchClassifier`, or an entry of `penalties` is not callable.
    :raises ValueError: If a penalty is unusable.

    Example:
    >>> import torch
    >>> from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> classifier = PyTorchClassifier(
    ...     model, torch.nn.CrossEntropyLoss(), (1, 2, 2), 2, optimizer=torch.optim.Adam(model.parameters())
    ... )
    >>> trainer = SensRegTrainer(classifier, [SensitivityPenalty(), JacobianPenalty()], TrainingConfig(seed=0))
    >>> x = np.random.default_rng(0).random((20, 1, 2, 2))
    >>> trainer.fit(x, np.arange(20) % 2, nb_epochs=2, verbose=False)
    >>> [sorted(epoch) for epoch in trainer.history][0]
    ['accuracy', 'base', 'epoch', 'jacobian', 'learning_rate', 'loss', 'seconds', 'sensitivity']
    >>> trainer.get_classifier() is classifier
    True
    """

    _default_config = TrainingConfig()

    def __init__(
        self,
        classifier: PyTorchClassifier,
        penalties: Sequence[Penalty] | None = None,
        config: TrainingConfig | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        if not isinstance(classifier, PyTorchClassifier):
            raise TypeError(f"`classifier` is {type(classifier).__name__}; expected an ART PyTorchClassifier.")
        if config is not None and not isinstance(config, TrainingConfig):
            raise TypeError(f"`config` is {config!r}; expected a TrainingConfig.")
        keep_whole(classifier)
        super().__init__(classifier)
        own = tuple(getattr(classifier, "penalties", ()))
        if penalties is None:
            penalties = default_penalties(classifier)
        self.adversary = check_adversary(adversary)
        penalties = check_penalties(penalties, self.adversary)
        if own and penalties != own:
            warnings.warn(
                "Both classifier and trainer have penalties; the trainer's are used and the classifier's are not.",
                stacklevel=2,
            )
        self.penalties = penalties
        self.config = self._default_config if config is None else config
        self.history: History = []

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        validation_data: Any = None,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        scheduler: Any = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Train the classifier; the record goes to `history`.

        :param x: Images `(n, *input_shape)`, floating point, finite, within `clip_values`; a memory-mapped array is
            read batch by batch.
        :param y: Class indices `(n,)`, or class probabilities `(n, nb_classes)`, one-hot or soft.
        :param validation_data: Images and labels that are scored after every epoch: a pair, or a loader as for
            `fit_generator`.
        :param batch_size: Size of a batch; the config's (default 128) if None.
        :param nb_epochs: Passes over the data; the config's (default 20) if None.
        :param scheduler: Any torch learning rate scheduler; see `TrainingConfig.scheduler_interval`.
        :param checkpoint_dir: Folder for checkpoints, or None: one after every epoch, and every
            `TrainingConfig.checkpoint_every` steps.
        :param resume: Whether to continue from the newest checkpoint in it, if there is one; the run then ends like
            one that was never interrupted, bit for bit on the CPU.
        :param verbose: Whether a progress bar is shown.
        :param kwargs: Not supported: an unknown argument is an error.
        :raises TypeError: If an argument is unknown or has the wrong type.
        :raises ValueError: If an argument is out of range; no weight has changed then.
        :raises FloatingPointError: If the loss turns NaN or infinite.
        :raises OSError: If a checkpoint cannot be written.
        """
        check_known("fit()", kwargs, self.fit)
        config = with_given(self.config, batch_size=batch_size, nb_epochs=nb_epochs)
        options = FitOptions(
            validation_data=validation_data,
            scheduler=scheduler,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            verbose=verbose,
            adversary=self.adversary,
        )
        self.history = fit_arrays(self._classifier, self._penalties_for(x), config, x, y, options)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int | None = None,
        validation_data: Any = None,
        scheduler: Any = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        verbose: bool = True,
        batch_adapter: BatchAdapter | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Train the classifier on batches of a loader; the record goes to `history`.

        :param generator: One of ART's data generators with a known `size`, or a torch `DataLoader`. The batches of a
            `DataLoader` over an `IterableDataset` without a length are counted first.
        :param nb_epochs: As for `fit`.
        :param validation_data: As for `fit`.
        :param scheduler: As for `fit`.
        :param checkpoint_dir: As for `fit`; one after every epoch.
        :param resume: As for `fit`, from the start of an epoch: a loader cannot be rewound.
        :param verbose: As for `fit`.
        :param batch_adapter: Function that turns a batch into a pair of images and labels, if it is something else:
            `lambda batch: (batch["image"], batch["label"])`. It is applied to batches of a validation loader too.
        :param kwargs: Not supported: an unknown argument is an error.
        :raises TypeError: If an argument is unknown or has the wrong type.
        :raises ValueError: If an argument is out of range, or the first batch is unusable.
        """
        check_known("fit_generator()", kwargs, self.fit_generator)
        options = FitOptions(
            validation_data=validation_data,
            scheduler=scheduler,
            checkpoint_dir=checkpoint_dir,
            resume=resume,
            verbose=verbose,
            adversary=self.adversary,
            batch_adapter=batch_adapter,
        )
        config = with_given(self.config, nb_epochs=nb_epochs)
        self.history = fit_batches(self._classifier, self._penalties_for(generator), config, generator, options)

    def __repr__(self) -> str:
        """The call that creates it, with `classifier` as a placeholder and without default values."""
        defaults = {"config": self._default_config, "adversary": None}
        arguments = {**self._penalty_arguments(), "config": self.config, "adversary": self.adversary}
        text = "".join(
            f", {name}={value!r}"
            for name, value in arguments.items()
            if name not in defaults or value != defaults[name]
        )
        return f"{type(self).__name__}(classifier{text})"

    def _penalty_arguments(self) -> dict[str, Any]:
        return {"penalties": list(self.penalties)}

    def _penalties_for(self, data: Any) -> Sequence[Penalty]:
        """The penalties of a run on some data: the weight of one may depend on the number of images."""
        return self.penalties


class _OnePenaltyTrainer(SensRegTrainer):
    """A trainer whose first penalty is an argument of its own, or made of settings."""

    def _penalty_arguments(self) -> dict[str, Any]:
        first, *further = self.penalties
        return {"penalty": first, "penalties": further} if further else {"penalty": first}


class FIRETrainer(_OnePenaltyTrainer):
    """
    FIRE: cross-entropy plus the squared Fisher-Rao distance to the worst-case prediction nearby.

    | Paper link: https://arxiv.org/abs/2106.06685

    :param classifier: ART `PyTorchClassifier` (or subclass) with an optimizer.
    :param penalty: The penalty; or the name of its preset, `mnist` or `cifar10`; None: one made of `settings`.
    :param config: Settings of the run.
    :param penalties: Further penalties.
    :param settings: Arguments of `FisherRaoPenalty` instead of a penalty: `weight`, `eps`, `eps_step`, `max_iter`.
    :raises TypeError: If an argument is unknown or has the wrong type.
    :raises ValueError: If an argument is out of range.

    Example:
    >>> import torch
    >>> from art_sensreg import FIRETrainer, TrainingConfig
    >>> model = torch.nn.Linear(4, 3)
    >>> classifier = PyTorchClassifier(
    ...     model, torch.nn.CrossEntropyLoss(), (4,), 3, optimizer=torch.optim.Adam(model.parameters())
    ... )
    >>> trainer = FIRETrainer(classifier, eps=0.1, eps_step=0.02, config=TrainingConfig(seed=0))
    >>> trainer.fit(np.random.default_rng(0).random((30, 4)), np.arange(30) % 3, nb_epochs=1, verbose=False)
    >>> "fisher_rao" in trainer.history[0]
    True
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        penalty: FisherRaoPenalty | str | None = None,
        config: TrainingConfig | None = None,
        penalties: Sequence[Penalty] = (),
        **settings: Any,
    ) -> None:
        if isinstance(penalty, str):
            check_choice("penalty", penalty, tuple(FIRE_PRESETS))
            penalty = FIRE_PRESETS[penalty]
        chosen = one_penalty(FisherRaoPenalty, penalty, settings)
        super().__init__(classifier, [chosen, *check_penalties(penalties)], config)


class GradDivTrainer(_OnePenaltyTrainer):
    """
    GradDiv on a randomised network: the gradients of its draws are pushed apart, so that averaging them gains less.

    For a network with Bayesian layers, the divergence from their prior over the number of training images is added, as
    in Adv-BNN (for which `adversary=PGD(...)` is needed too). With many more weights than images, only the prior would
    then be learned: pass `penalties=[BayesianKL(weight=...)]` with a smaller weight instead.

    | Paper link: https://arxiv.org/abs/2107.02425

    :param classifier: ART `PyTorchClassifier` (or subclass, such as `RandomizedClassifier`) with an optimizer, whose
        model is random in evaluation mode: `randomize(model, kind=...)` makes one.
    :param penalty: The penalty; None: one made of `settings`.
    :param config: Settings of the run; None: `TrainingConfig(penalty_warmup=0.5)`, with which the weight rises over
        the first half of the run. At full weight from the start, the network would not learn at all.
    :param penalties: Further penalties.
    :param adversary: As for :class:`SensRegTrainer`.
    :param settings: Arguments of `GradientDiversityPenalty` instead of a penalty: `weight`, `kind`, `samples`, `delta`.
    :raises TypeError: If an argument is unknown or has the wrong type.
    :raises ValueError: If an argument is out of range.

    Example:
    >>> import torch
    >>> from art_sensreg import GradDivTrainer, RandomizedClassifier, TrainingConfig, randomize
    >>> layers = torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    >>> model = randomize(torch.nn.Sequential(*layers), kind="rse")
    >>> classifier = RandomizedClassifier(
    ...     model, torch.nn.CrossEntropyLoss(), (4,), 3, optimizer=torch.optim.Adam(model.parameters())
    ... )
    >>> trainer = GradDivTrainer(classifier, samples=3, config=TrainingConfig(seed=0))
    >>> trainer.fit(np.random.default_rng(0).random((30, 4)), np.arange(30) % 3, nb_epochs=1, verbose=False)
    >>> "gradient_diversity" in trainer.history[0]
    True
    """

    _default_config = TrainingConfig(penalty_warmup=0.5)

    def __init__(
        self,
        classifier: PyTorchClassifier,
        penalty: GradientDiversityPenalty | None = None,
        config: TrainingConfig | None = None,
        penalties: Sequence[Penalty] = (),
        adversary: Adversary | None = None,
        **settings: Any,
    ) -> None:
        chosen = one_penalty(GradientDiversityPenalty, penalty, settings)
        further = check_penalties(penalties, check_adversary(adversary))
        super().__init__(classifier, [chosen, *further], config, adversary)
        model = classifier.model
        example = torch.rand(2, *classifier.input_shape).to(classifier.device, model_dtype(model))
        if not draws_differ(model, example):
            raise ValueError(
                f"`classifier` has a model, {type(model).__name__}, that is not random in evaluation mode; expected a "
                "randomised network: art_sensreg.randomize(model, kind='rse'), say."
            )

    def _penalties_for(self, data: Any) -> Sequence[Penalty]:
        bayesian = any(isinstance(module, GaussianWeights) for module in self._classifier.model.modules())
        if not bayesian or any(isinstance(penalty, BayesianKL) for penalty in self.penalties):
            return self.penalties
        return (*self.penalties, BayesianKL(weight=1 / number_of_images(data)))
