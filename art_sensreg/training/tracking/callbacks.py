"""Callbacks that write the record of a run to TensorBoard, MLflow and W&B, each imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from art_sensreg.training.callbacks import Callback, TrainingState
from art_sensreg.utils import check_count
from art_sensreg.utils.checks import optional_module


class HistoryCallback(Callback):
    """
    What the three have in common: which values are written, by which process, and at which step.

    Every epoch writes its record in the history. The step of all values is the number of training steps done, so that
    those within epochs and those of whole epochs share an axis. Of several processes the first one writes.
    """

    def __init__(self, every: int | None) -> None:
        if every is not None:
            check_count("every", every)
        self._every = every

    def on_start(self, state: TrainingState) -> None:
        """Open the run, or continue it."""
        if state.rank == 0:
            self._open(state.total_steps)

    def on_step(self, state: TrainingState) -> None:
        """Every so many steps, write the terms of the loss as `step/NAME`."""
        if state.rank == 0 and self._every is not None and state.total_steps % self._every == 0:
            self._write({f"step/{name}": float(term) for name, term in state.terms.items()}, state.total_steps)

    def on_epoch(self, state: TrainingState) -> None:
        """Write the record of the epoch."""
        if state.rank == 0:
            self._write({name: float(value) for name, value in state.history[-1].items()}, state.total_steps)

    def on_end(self, state: TrainingState) -> None:
        """Close the run, if it is this callback's own."""
        if state.rank == 0:
            self._close()

    def _open(self, step: int) -> None:
        raise NotImplementedError

    def _write(self, values: dict[str, float], step: int) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class TensorBoardCallback(HistoryCallback):
    """
    Write the history to TensorBoard: `tensorboard --logdir FOLDER` shows it while the model trains.

    A resumed run writes on in the same folder; what the interrupted one wrote after its last checkpoint is hidden.

    :param log_dir: Folder of this run, created if missing.
    :param every: Steps between two records of the terms of the loss (`step/loss`, ...); None: only whole epochs.
    :raises ValueError: If `every` is less than 1.
    :raises ImportError: At the start of the training, if the package tensorboard is missing.

    Example:
    >>> from art_sensreg import TrainingConfig
    >>> from art_sensreg.training import TensorBoardCallback
    >>> config = TrainingConfig(callbacks=[TensorBoardCallback("runs/sr+jr")])
    """

    def __init__(self, log_dir: str | Path, every: int | None = None) -> None:
        super().__init__(every)
        self._log_dir = str(log_dir)

    def _open(self, step: int) -> None:
        optional_module("tensorboard")
        writer = optional_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(self._log_dir, purge_step=step + 1 if step else None)

    def _write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _close(self) -> None:
        self._writer.close()


class MLflowCallback(HistoryCallback):
    """
    Write the history to MLflow: into the active run if there is one, which stays open, else into a run of its own.

    A resumed run writes into the MLflow run of the interrupted one. A run of its own that an error ends stays `RUNNING`
    for that reason.

    :param experiment: Name of the experiment of its own run, created if missing.
    :param run_name: Name of its own run; None: one that MLflow makes up.
    :param params: Settings to store with the run, whatever you wish to compare runs by.
    :param every: As for :class:`TensorBoardCallback`.
    :raises ValueError: If `every` is less than 1.
    :raises ImportError: At the start of the training, if the package mlflow is missing.

    Example:
    >>> from art_sensreg import TrainingConfig
    >>> from art_sensreg.training import MLflowCallback
    >>> config = TrainingConfig(callbacks=[MLflowCallback("digits", run_name="sr+jr", params={"sigma": 0.3})])
    """

    def __init__(
        self,
        experiment: str = "art_sensreg",
        run_name: str | None = None,
        params: Mapping[str, Any] | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__(every)
        self._experiment, self._run_name, self._params = experiment, run_name, dict(params or {})
        self._run_id: str | None = None
        self._resumed = False

    def _open(self, step: int) -> None:
        mlflow = optional_module("mlflow")
        self._client, active = mlflow.MlflowClient(), mlflow.active_run()
        self._own = active is None
        if active is not None:
            self._run_id = active.info.run_id
        elif self._resumed:
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._run_id = self._client.create_run(self._experiment_id(), run_name=self._run_name).info.run_id
        if not self._resumed:
            for name, value in self._params.items():
                self._client.log_param(self._run_id, name, value)
        self._resumed = False  # a further run of this callback is another one

    def _experiment_id(self) -> str:
        known = self._client.get_experiment_by_name(self._experiment)
        return str(self._client.create_experiment(self._experiment) if known is None else known.experiment_id)

    def _write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def _close(self) -> None:
        if self._own:
            self._client.set_terminated(self._run_id)

    def state_dict(self) -> dict[str, Any]:
        """The MLflow run that a resumed training continues."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Continue the MLflow run of the interrupted training.

        :param state: What `state_dict` returned.
        """
        self._run_id = state.get("run_id")
        self._resumed = self._run_id is not None


class WandbCallback(HistoryCallback):
    """
    Write the history to Weights & Biases: into the active run if there is one, which stays open, else into its own.

    A resumed run continues the W&B run of the interrupted one.

    :param every: As for :class:`TensorBoardCallback`.
    :param settings: Arguments of `wandb.init` for its own run: `project`, `name`, `config`, `mode`, ...
    :raises ValueError: If `every` is less than 1.
    :raises ImportError: At the start of the training, if the package wandb is missing.

    Example:
    >>> from art_sensreg import TrainingConfig
    >>> from art_sensreg.training import WandbCallback
    >>> config = TrainingConfig(callbacks=[WandbCallback(project="robust-digits", config={"sigma": 0.3})])
    """

    def __init__(self, *, every: int | None = None, **settings: Any) -> None:
        super().__init__(every)
        self._settings = settings
        self._run_id: str | None = None
        self._resumed = False

    def _open(self, step: int) -> None:
        wandb = optional_module("wandb")
        self._own = wandb.run is None
        resumed = {"id": self._run_id, "resume": "allow"} if self._resumed else {}
        self._run = wandb.init(**{**self._settings, **resumed}) if self._own else wandb.run
        self._run_id, self._resumed = self._run.id, False

    def _write(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def _close(self) -> None:
        if self._own:
            self._run.finish()

    def state_dict(self) -> dict[str, Any]:
        """The W&B run that a resumed training continues."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Continue the W&B run of the interrupted training.

        :param state: What `state_dict` returned.
        """
        self._run_id = state.get("run_id")
        self._resumed = self._run_id is not None
