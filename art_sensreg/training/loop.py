"""The only training loop of the package: every trainer and `SensRegClassifier.fit` use it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm

from art_sensreg.training.batches import GlobalBatch
from art_sensreg.training.callbacks import CallbackList, History, TrainingState
from art_sensreg.training.checkpoint.codec import pack
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.checkpoint.state import RunState
from art_sensreg.training.metrics import EpochSums, threshold
from art_sensreg.training.numerics.rollback import modes_on_error, preserve_other_grad
from art_sensreg.training.optimizers import check_precision, fused, needs_closure
from art_sensreg.training.resources import TURN, channels_last, freed_memory_kept
from art_sensreg.training.run import Progress, RunSetup
from art_sensreg.training.signals import StopRequest
from art_sensreg.training.step_runner import StepRunner
from art_sensreg.training.stopping import EpochEnd
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.modes import set_mode
from art_sensreg.utils.rng import derive_seed

logger = logging.getLogger(__name__)


def train(setup: RunSetup) -> History:
    """
    Train a model in place.

    :param setup: What the run is given.
    :return: One dict per epoch: `epoch`, `loss`, `base`, each penalty's value, `accuracy`, `learning_rate` (of the
        first parameter group, at the start of the epoch), `seconds`; with validation data `val_loss`, `val_accuracy`
        and, with an attack, `val_robust_accuracy`; with `on_nonfinite="skip"` also `skipped`; with a guard
        `pgd_accuracy`, `fgsm_accuracy` and `catastrophic_overfitting` (1 in the epoch of a collapse), and where it is
        predicted `gradient_cosine` and `overfitting_predicted`.
    :raises FloatingPointError: If a term of the loss turns NaN or infinite; the weights are those before that step.
    :raises OSError: If a checkpoint cannot be written; the last one is intact.
    :raises ValueError: If the scheduler is too short, the monitor needs validation data that are not given, a
        checkpoint is of another run, or none can be read.

    Example:
    >>> from art_sensreg.objectives import Objective
    >>> from art_sensreg.training import TrainingConfig
    >>> from art_sensreg.training.batches import BatchSizes, TensorBatches
    >>> from art_sensreg.training.loop import train
    >>> from art_sensreg.training.run import RunSetup
    >>> model = torch.nn.Linear(3, 2)
    >>> history = train(RunSetup(
    ...     model=model,
    ...     objective=Objective(),
    ...     batches=TensorBatches(torch.rand(10, 3), torch.zeros(10, dtype=torch.long), BatchSizes(4)),
    ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...     config=TrainingConfig(nb_epochs=2, seed=0),
    ... ))
    >>> [record["epoch"] for record in history]
    [1, 2]
    """
    objective_state = ObjectiveState(setup.objective, setup.model, setup.optimizer)
    if objective_state.modules():
        setup.objective.attacked = objective_state.unchanged
    epoch_end = EpochEnd(setup, objective_state)
    _check(setup)
    drawn = int(torch.randint(2**31, ())) if setup.config.seed is None else setup.config.seed
    state = TrainingState(
        setup.model, setup.optimizer, setup.scheduler, setup.config.nb_epochs, rank=setup.processes.rank
    )
    progress = Progress(state, int(setup.processes.agree(drawn)), EpochSums(threshold(setup.objective)))
    with ExitStack() as stack:
        stack.enter_context(TURN.taken())
        stack.enter_context(_borrowed(setup, objective_state))
        stored = None if setup.checkpoints is None else setup.checkpoints.newest()
        Training(setup, progress, StepRunner(setup, progress, objective_state), epoch_end).run(stored)
    return state.history


def _check(setup: RunSetup) -> None:
    if setup.config.compile and not setup.objective.compilable:
        raise ValueError(
            "`compile` is True with a penalty that needs double backward, or with gradient steps inside a step, "
            "which torch.compile refuses; expected JacobianPenalty(estimator='finite_difference'), no adversary, "
            "no FisherRaoPenalty and no GradientDiversityPenalty."
        )
    for penalty in setup.objective.penalties.values():
        if setup.config.accumulate > 1 and getattr(penalty, "of_whole_batch", False):
            raise ValueError(
                f"`accumulate` is {setup.config.accumulate} with {penalty!r}, whose value needs the whole batch at "
                "once; expected 1, or no `top_layers` and the norm 'frobenius'."
            )
    adversary, divided = setup.objective.adversary, setup.config.accumulate > 1 or setup.processes.count > 1
    if adversary is not None and adversary.of_whole_batch and divided:
        raise ValueError(
            f"`adversary` is {adversary!r}, whose loss needs the whole batch at once; expected a single process and "
            "accumulate=1."
        )
    if adversary is not None and setup.config.eps_warmup:
        try:
            adversary.at_size(0.5)
        except TypeError as error:
            raise ValueError(
                f"`eps_warmup` is {setup.config.eps_warmup!r} with {adversary!r}, which cannot be made again with half "
                f"of its `eps`: {error}; expected 0, or a method `at_size` of its own."
            ) from error
    if adversary is None and setup.config.eps_warmup:
        raise ValueError(
            f"`eps_warmup` is {setup.config.eps_warmup!r} without an `adversary` whose size could rise; expected 0."
        )
    check_precision(setup.optimizer, setup.config.precision)
    if setup.config.awp_gamma and needs_closure(setup.optimizer):
        raise ValueError(
            f"`awp_gamma` is {setup.config.awp_gamma!r} with the optimizer {type(setup.optimizer).__name__}, which "
            "perturbs the weights itself; expected one of the two."
        )


@contextmanager
def _borrowed(setup: RunSetup, objective_state: ObjectiveState) -> Iterator[None]:
    """What the run changes of its surroundings, and puts back: modes, layouts, gradients, random states, memory."""
    modules = [*setup.model.modules(), *objective_state.modules()]
    tensors = [*setup.model.parameters(), *objective_state.parameters()]
    with ExitStack() as stack:
        stack.enter_context(modes_on_error(modules))
        stack.enter_context(channels_last(setup.model, setup.optimizer, setup.config.channels_last))
        stack.enter_context(preserve_other_grad(tensors, setup.optimizer))
        stack.enter_context(torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []))
        if not setup.batches.rewindable:  # a loader's epochs seed Python's and numpy's generators too
            stack.enter_context(preserve_rng_state())
        if setup.config.keep_freed_memory:
            stack.enter_context(freed_memory_kept(setup.device))
        stack.enter_context(fused(setup.optimizer))
        yield


class Training:
    """The epochs of a run, its checkpoints and its end."""

    def __init__(self, setup: RunSetup, progress: Progress, steps: StepRunner, epoch_end: EpochEnd) -> None:
        self._setup, self._progress, self._steps, self._epoch_end = setup, progress, steps, epoch_end
        self._state = progress.state
        self._callbacks = CallbackList(setup.config.callbacks)
        self._stop_request = StopRequest()
        self._run_state = RunState(
            progress=progress,
            model=setup.model,
            average=steps.stepper.average,
            objective=steps.objective_state,
            optimizer=setup.optimizer,
            scheduler=setup.scheduler,
            schedule=epoch_end.schedule,
            scaler=steps.stepper.scaler,
            early_stopping=epoch_end.early_stopping,
            guard=setup.guard,
            callbacks=self._callbacks,
            batches=setup.batches,
            perturbations=steps.perturbations,
        )

    def run(self, stored: dict[str, Any] | None) -> None:
        """Train to the end, from the start or from what a checkpoint holds."""
        setup, state, checkpoints = self._setup, self._state, self._setup.checkpoints
        if stored is not None:
            self._resume(stored)
        left = setup.config.nb_epochs * len(setup.batches) - state.total_steps
        with ExitStack() as stack:
            self._bar = stack.enter_context(
                tqdm(
                    total=left + state.total_steps,
                    initial=state.total_steps,
                    disable=not setup.verbose,
                    desc="Training",
                    unit="step",
                )
            )
            if checkpoints is not None:
                stack.enter_context(self._stop_request)
            self._call("on_start")
            if stored is not None:
                self._run_state.restore_random_state(stored)
            elif checkpoints is not None:
                pack(self._run_state.state_dict())  # what cannot be stored is an error now, not after the first epoch
            self._epoch_end.schedule.start(setup.config.nb_epochs, len(setup.batches), left)
            while self._progress.epochs_done < setup.config.nb_epochs and not state.stop:
                self._epoch()
            self._finish()

    def _resume(self, stored: dict[str, Any]) -> None:
        self._run_state.load_state_dict(stored)
        self._steps.resume()
        stopping = self._epoch_end.early_stopping
        self._state.stop = self._state.stop or (stopping is not None and stopping.exhausted)
        if not self._setup.batches.rewindable:
            logger.warning(
                "The training data come from a loader that cannot be rewound: training resumes at the start of epoch "
                "%d.",
                self._state.epoch + 1,
            )
        assert self._setup.checkpoints is not None
        self._setup.checkpoints.check_restored()

    def _epoch(self) -> None:
        start = time.perf_counter()
        setup, progress, state = self._setup, self._progress, self._state
        progress.begin_epoch()
        set_mode(setup.model, setup.training_mode)
        self._steps.model_may_have_changed = True
        order = derive_seed(progress.seed, "order", state.epoch)
        for batch in setup.batches.epoch(order, state.step, setup.processes):
            self._step(batch)
            if state.stop:
                break
        if self._steps.perturbations is not None:
            self._steps.perturbations.check_visits()
        interrupted, state.stop = state.stop, False  # a resumed run goes on, also with the next epoch
        broken_off = interrupted and state.step < len(setup.batches)
        if broken_off and setup.batches.rewindable:
            self._checkpoint()  # still inside the epoch: a resumed run does the rest of it
        progress.inside = False
        means = progress.sums.means(["loss", "base", *setup.objective.names], setup.processes)
        record = {"epoch": state.epoch, **means, "learning_rate": progress.learning_rate}
        if setup.config.on_nonfinite == "skip":
            record["skipped"] = state.skipped
        self._steps.finite.check_weights(state)
        if self._epoch_end(record, self._steps.stepper.average, progress):
            state.stop = True
        record["seconds"] = time.perf_counter() - start
        state.history.append(record)
        self._call("on_epoch")
        if not broken_off:
            self._checkpoint()
        state.stop = state.stop or interrupted

    def _step(self, batch: GlobalBatch) -> None:
        state = self._state
        if self._steps(batch):
            self._epoch_end.schedule.after_step(state.total_steps)
        self._call("on_step")
        if self._setup.verbose:
            self._bar.update()
            if state.step % 10 == 0 or state.step == len(self._setup.batches):
                self._bar.set_postfix(self._progress.sums.means(), refresh=False)
        if self._setup.checkpoints is not None:
            self._between_steps()

    def _between_steps(self) -> None:
        """A checkpoint if it is time, and the end if a signal asks for it."""
        setup, state = self._setup, self._state
        asked = self._stop_request.signal is not None
        if setup.processes.count > 1:
            asked = setup.processes.sum([float(asked)])[0] > 0  # all stop after the same step, or none
        every = setup.config.checkpoint_every
        due = every is not None and state.total_steps % every == 0 and state.step < len(setup.batches)
        if (asked or due) and setup.batches.rewindable:
            self._checkpoint()
        if asked:
            assert setup.checkpoints is not None
            logger.warning("Training stops on request. %s", setup.checkpoints.last())
            self._stop_request.obey(default=signal.SIGTERM)

    def _checkpoint(self) -> None:
        if self._setup.checkpoints is not None:
            if self._progress.inside:
                self._steps.finite.check_weights(self._state)
            self._setup.checkpoints.write(self._state.total_steps, self._run_state.state_dict())

    def _call(self, moment: str) -> None:
        """Call the callbacks; if one process's ask for a stop, all stop."""
        if self._callbacks:
            with TURN.in_callback():
                called = self._callbacks.call(moment, self._state)
            self._steps.model_may_have_changed = self._steps.model_may_have_changed or called
            if self._setup.processes.count > 1:
                self._state.stop = self._setup.processes.sum([float(self._state.stop)])[0] > 0

    def _finish(self) -> None:
        average = self._steps.stepper.average
        if average is not None:
            self._setup.model.load_state_dict(average.module.state_dict())
        self._epoch_end.restore_best()
        self._setup.model.eval()
        with TURN.in_callback():
            self._callbacks.call("on_end", self._state)
