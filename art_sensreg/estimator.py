"""A scikit-learn classifier around the trainer: for `clone`, `cross_val_score`, `GridSearchCV` and `Pipeline`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.art_bridge import with_given
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.penalty_lists import Penalty
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training import History, TrainingConfig
from art_sensreg.utils import check_number, shown

FLOATS = (np.float32, np.float64)


class SensRegEstimator(ClassifierMixin, BaseEstimator):
    """
    Train with penalties as scikit-learn trains: `fit(X, y)` starts anew each time, from the constructor's settings.

    After `fit` the attribute `classifier_` is the `SensRegClassifier` that ART's attacks and `audit` take.

    :param model: Function `model(input_shape, nb_classes)` that makes an untrained module from inputs to logits; or a
        module, a copy of which is trained further. None: one hidden layer of 128 ReLU units.
    :param penalties: As for `SensRegTrainer`: None takes SR and JR with their defaults, scaled to `clip_values`.
    :param adversary: As for `SensRegTrainer`; it needs `clip_values`.
    :param optimizer: Class of the optimizer, or a function of the parameters and `lr`; None: `torch.optim.Adam`.
    :param lr: Learning rate, above 0.
    :param nb_epochs: Passes over the data; the config's (default 20) if None.
    :param batch_size: Examples per step; the config's (default 128) if None.
    :param input_shape: Shape of one input of the model, for data that come as rows `(n, features)`, as scikit-learn's
        transformers return them; None: as the data come.
    :param clip_values: Range `(min, max)` of the inputs, which ART's attacks need; None: unbounded.
    :param config: All other settings of the run; `random_state` takes precedence over its seed.
    :param random_state: Seed of the initial weights and of the run: a number, a `RandomState`, or None for a new one.
    :param verbose: Whether a progress bar is shown.

    Example:
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from art_sensreg import SensRegEstimator
    >>> x, y = load_digits(return_X_y=True)
    >>> estimator = SensRegEstimator(lr=0.01, nb_epochs=10, clip_values=(0, 1), random_state=0)
    >>> bool(cross_val_score(estimator, x[:600] / 16, y[:600], cv=2).mean() > 0.5)
    True
    """

    def __init__(
        self,
        model: Callable[[tuple[int, ...], int], nn.Module] | nn.Module | None = None,
        *,
        penalties: Sequence[Penalty] | None = None,
        adversary: Adversary | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        lr: float = 1e-3,
        nb_epochs: int | None = None,
        batch_size: int | None = None,
        input_shape: tuple[int, ...] | None = None,
        clip_values: Any = None,
        config: TrainingConfig | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.penalties = penalties
        self.adversary = adversary
        self.optimizer = optimizer
        self.lr = lr
        self.nb_epochs = nb_epochs
        self.batch_size = batch_size
        self.input_shape = input_shape
        self.clip_values = clip_values
        self.config = config
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: np.ndarray, y: np.ndarray) -> SensRegEstimator:
        """
        Train a new model.

        :param X: Inputs `(n, features)`, or images `(n, *input_shape)`, finite, within `clip_values`.
        :param y: Labels `(n,)` of any kind: numbers or strings, at least two different ones.
        :return: The estimator itself.
        :raises TypeError: If a setting has the wrong type.
        :raises ValueError: If inputs, labels or a setting are unusable.
        """
        X, y = validate_data(self, X, y, allow_nd=True, dtype=FLOATS)
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` has one class only, {shown(self.classes_[0])}; expected at least two classes.")
        check_number("lr", self.lr, minimum=0.0, exclusive=True)
        x = self._inputs(X)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = TrainingConfig() if self.config is None else self.config
        trainer = SensRegTrainer(
            self._untrained(x.shape[1:], seed),
            self.penalties,
            with_given(config, nb_epochs=self.nb_epochs, batch_size=self.batch_size, seed=seed),
            self.adversary,
        )
        trainer.fit(x, indices, verbose=self.verbose)
        self.classifier_: SensRegClassifier = trainer.get_classifier()
        self.history_: History = trainer.history
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """
        The logits; for two classes the second one's minus the first one's.

        :param X: As for `fit`.
        :return: `(n, classes)`, for two classes `(n,)`; float32.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """
        The softmax of the logits.

        :param X: As for `fit`.
        :return: `(n, classes)`, in the order of `classes_`.
        """
        return torch.from_numpy(self._logits(X)).softmax(dim=1).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """
        The most likely labels.

        :param X: As for `fit`.
        :return: `(n,)`, entries of `classes_`.
        """
        indices = self._logits(X).argmax(axis=1)
        labels: np.ndarray = self.classes_[indices]
        return labels

    def _logits(self, X: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, allow_nd=True, dtype=FLOATS)
        return self.classifier_.predict(self._inputs(X))

    def _inputs(self, X: np.ndarray) -> np.ndarray:
        """Rows in the shape that the model takes."""
        if self.input_shape is None:
            return X
        if X[0].size != np.prod(self.input_shape):
            raise ValueError(
                f"`input_shape` is {self.input_shape!r}; expected one of {X[0].size} features, as `X` has."
            )
        return X.reshape(len(X), *self.input_shape)

    def _untrained(self, shape: tuple[int, ...], seed: int) -> SensRegClassifier:
        """The classifier to train, whose initial weights depend on the seed alone."""
        nb_classes = len(self.classes_)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(self.model, nn.Module):
                model = copy.deepcopy(self.model)
            else:
                model = (_one_hidden_layer if self.model is None else self.model)(shape, nb_classes)
        make = torch.optim.Adam if self.optimizer is None else self.optimizer
        return SensRegClassifier(
            model,
            nn.CrossEntropyLoss(),
            shape,
            nb_classes,
            optimizer=make(model.parameters(), lr=self.lr),
            clip_values=self.clip_values,
        )


def _one_hidden_layer(shape: tuple[int, ...], nb_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 128), nn.ReLU(), nn.Linear(128, nb_classes))
