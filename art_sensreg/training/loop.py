"""The one training loop of the package: every trainer and `SensRegClassifier.fit` end up here."""

from __future__ import annotations

import logging
import math
import signal
import time
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.batch_norm import batch_norms
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.training.batches import Batches
from art_sensreg.training.callbacks import History, TrainingState, call
from art_sensreg.training.checkpoint.codec import pack
from art_sensreg.training.checkpoint.objective_state import ObjectiveState, Trained
from art_sensreg.training.checkpoint.run import Checkpoints
from art_sensreg.training.checkpoint.state import restore_run, run_state
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes
from art_sensreg.training.held_out import HeldOut
from art_sensreg.training.metrics import Sums, make_monitor
from art_sensreg.training.numerics.nonfinite import Soundness
from art_sensreg.training.numerics.rollback import modes_on_error, preserve_other_grad
from art_sensreg.training.one_run import in_callback, one_run_at_a_time
from art_sensreg.training.optimizers import check_precision
from art_sensreg.training.overfitting import OverfittingGuard
from art_sensreg.training.resources import StopRequest, buffers_kept, channels_last, fused, match_layout
from art_sensreg.training.schedules.stepping import Schedule
from art_sensreg.training.step_parts import unused_parameters
from art_sensreg.training.steps import Stepper
from art_sensreg.training.stopping import best_weights, entries_of, judge
from art_sensreg.training.validation import threshold
from art_sensreg.utils.model_rng import Replay, preserve_rng_state, seed_sources, torch_generator
from art_sensreg.utils.modes import set_mode
from art_sensreg.utils.rng import derive_seed, restore_random_state

logger = logging.getLogger(__name__)


class Training:
    """
    One training run.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits; trained in place.
    :param objective: What each step minimises; already prepared for the model.
    :param batches: The training data.
    :param optimizer: Optimizer of the model's parameters.
    :param config: Settings.
    :param scheduler: Any torch learning rate scheduler of the optimizer, or None.
    :param validation: Images and labels that are scored after every epoch, or None.
    :param verbose: Whether a progress bar is shown.
    :param training_mode: Whether the model trains in training mode; False keeps it in evaluation mode, as BatchNorm
        layers whose parameters all are frozen always are.
    :param checkpoints: Where checkpoints go, or None.
    :param processes: Those that train together.
    :param guard: Looks for catastrophic overfitting, or None.
    :raises ValueError: If the scheduler is too short, or the monitor needs validation data that are not given.

    Example:
    >>> from art_sensreg.training.batches import TensorBatches
    >>> from art_sensreg.training.loop import Training
    >>> model = nn.Linear(3, 2)
    >>> batches = TensorBatches(torch.rand(10, 3), torch.zeros(10, dtype=torch.long), batch_size=4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> history = Training(model, Objective(), batches, optimizer, TrainingConfig(nb_epochs=2, seed=0)).run()
    >>> [record["epoch"] for record in history]
    [1, 2]
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        scheduler: Any = None,
        validation: HeldOut | None = None,
        verbose: bool = False,
        training_mode: bool = True,
        checkpoints: Checkpoints | None = None,
        processes: Processes = Processes(),  # noqa: B008 - frozen
        guard: OverfittingGuard | None = None,
    ) -> None:
        self.model, self.objective, self.batches = model, objective, batches
        self.optimizer, self.config, self.scheduler = optimizer, config, scheduler
        self.validation, self.verbose, self.training_mode = validation, verbose, training_mode
        self.checkpoints, self.processes, self.guard = checkpoints, processes, guard
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.own = ObjectiveState(objective, model, optimizer)
        if self.own.modules():
            objective.attacked = self.own.looked_at
        self.schedule = Schedule(scheduler, config, entries_of(self))
        self.monitor = make_monitor(config, validation is not None)
        if config.compile and not objective.compilable:
            raise ValueError(
                "`compile` is True with a penalty that needs double backward, or with gradient steps inside of a step, "
                "which torch.compile refuses; expected JacobianPenalty(estimator='finite_difference'), no adversary, "
                "no FisherRaoPenalty and no GradientDiversityPenalty."
            )
        check_precision(optimizer, config.precision)
        drawn = int(torch.randint(2**31, ())) if config.seed is None else config.seed
        self.seed = int(processes.agree(drawn))
        self.state = TrainingState(model, optimizer, scheduler, config.nb_epochs, rank=processes.rank)
        self.sums = Sums()
        self.rate = 0.0
        self.inside = False  # whether an epoch has begun and not ended
        self._changed = False  # whether somebody may have changed the model
        self._stopping = StopRequest()

    def run(self) -> History:
        """
        Train.

        :return: One dict per epoch: `epoch`, `loss`, `base`, each penalty's value, `accuracy`, `learning_rate` (of the
            first parameter group, at the start of the epoch), `seconds`; with validation data `val_loss`,
            `val_accuracy` and, with an attack, `val_robust_accuracy`; with `on_nonfinite="skip"` also `skipped`; with
            a guard `pgd_accuracy`, `fgsm_accuracy` and `catastrophic_overfitting` (1 in the epoch of a collapse).
        :raises FloatingPointError: If a term of the loss turns NaN or infinite; the weights are those before that step.
        :raises OSError: If a checkpoint cannot be written; the last one is intact.
        :raises ValueError: If a checkpoint is of another run, or none can be read.
        """
        with ExitStack() as stack:
            stack.enter_context(one_run_at_a_time())
            stack.enter_context(modes_on_error([*self.model.modules(), *self.own.modules()]))
            stack.enter_context(channels_last(self.model, self.optimizer, self.config.channels_last))
            every = [*self.model.parameters(), *self.own.parameters()]
            stack.enter_context(preserve_other_grad(every, self.optimizer))
            stack.enter_context(torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []))
            if not self.batches.rewindable:  # a loader's epochs seed Python's and numpy's generators too
                stack.enter_context(preserve_rng_state())
            stack.enter_context(buffers_kept(self.device))
            stack.enter_context(fused(self.optimizer))
            stored = None if self.checkpoints is None else self.checkpoints.newest()
            self._build()
            if stored is not None and self.checkpoints is not None:
                restore_run(self, stored)
                self.checkpoints.check_restored()
            done = self.state.epoch - self.inside
            steps = self.config.nb_epochs * len(self.batches)
            self.bar = stack.enter_context(
                tqdm(
                    total=steps, initial=self.state.total_steps, disable=not self.verbose, desc="Training", unit="step"
                )
            )
            if self.checkpoints is not None:
                stack.enter_context(self._stopping)
            self._call("on_start")
            if stored is not None:
                restore_random_state(stored["random"])
            elif self.checkpoints is not None:
                pack(run_state(self))  # what cannot be stored is an error now, not after the first epoch
            self.schedule.start(self.config.nb_epochs, len(self.batches), steps - self.state.total_steps)
            while done < self.config.nb_epochs and not self.state.stop:
                self._epoch()
                done = self.state.epoch
            self._finish()
        return self.state.history

    def _build(self) -> None:
        """What needs the trained model on its device."""
        unused = False
        if self.processes.count > 1:
            x, y, _ = next(self.batches.epoch(0, 0, self.processes)) if self.batches.rewindable else (None, None, 0)
            unused = (
                x is None or y is None or bool(unused_parameters(self.model, self.objective, x[:2], y[:2], self.own))
            )
        match_layout(self.optimizer)
        self.stepper = Stepper(
            self.model, self.objective, self.optimizer, self.config, self.processes, unused, self.own, self._seed_model
        )
        self.soundness = Soundness(self)
        self.probes = self.new_probes()
        self.at = threshold(self.objective)

    def new_probes(self) -> Probes:
        probes = Probes(self.seed, self.device)
        if self.config.compile:  # what is drawn must not become a constant of the compiled step
            for name in ("windows", "generator"):
                setattr(probes, name, torch.compiler.disable(getattr(probes, name)))
        return probes

    # --- epochs and steps -------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        start = time.perf_counter()
        state = self.state
        if not self.inside:
            state.epoch, state.step, self.inside = state.epoch + 1, 0, True
            self.rate, self.sums = float(self.optimizer.param_groups[0]["lr"]), Sums()
        set_mode(self.model, self.training_mode)
        self._changed = True
        order = derive_seed(self.seed, "order", state.epoch)
        for x, y, total in self.batches.epoch(order, state.step, self.processes):
            self._step(x, y, total)
            if state.stop:
                break
        broken_off = state.stop and state.step < len(self.batches)
        if broken_off and self.batches.rewindable:
            self._checkpoint()  # still inside the epoch: a resumed run does the rest of it
        self.inside = False
        none = dict.fromkeys(["loss", "base", *self.objective.names] if not self.sums.rows else [], math.nan)
        record = {"epoch": state.epoch, **none, **self.sums.means(self.processes), "learning_rate": self.rate}
        if self.config.on_nonfinite == "skip":
            record["skipped"] = state.skipped
        self.soundness.check_weights()
        judge(self, record)
        record["seconds"] = time.perf_counter() - start
        state.history.append(record)
        self._call("on_epoch")
        if not broken_off:
            self._checkpoint()

    def _step(self, x: torch.Tensor, y: torch.Tensor, total: int) -> None:
        state, processes = self.state, self.processes
        noisy = total if self.config.penalty_fraction == 1 else max(1, round(self.config.penalty_fraction * total))
        own, share = processes.share(total, noisy)
        if self.config.penalty_warmup:
            rising = self.config.penalty_warmup * self.config.nb_epochs * len(self.batches)
            self.objective.strength = min(1.0, state.total_steps / max(rising, 1.0))
        if self._changed:
            self.objective.look_again(self.model, x[:LOOK])
            self._changed = False
        self.soundness.before_step()
        probes = self.probes.at(state.total_steps, processes.rank, processes.count)
        try:
            with Replay(self.objective.traits.sources_to_seed):
                self._seed_model()
                terms, logits, culprit = self.stepper(x, y, own, probes, share, self._pieces(total))
        except BaseException:
            self.soundness.go_back()
            raise
        state.terms = {name: value.detach() for name, value in terms.items()}
        state.step += 1
        state.total_steps += 1
        if culprit is not None:
            self.soundness.leave_out(culprit)
        else:
            self.sums.add(state.terms, logits.detach(), y[:own], total, self.at)
            self.schedule.after_step(state.total_steps)
        self._call("on_step")
        if self.verbose:
            self.bar.update()
            if state.step % 10 == 0 or state.step == len(self.batches):
                self.bar.set_postfix(self.sums.means(), refresh=False)
        if self.checkpoints is not None:
            self._pause()

    def _pieces(self, rows: int) -> int:
        """The number of micro-batches of a step: no process has one without rows, nor BatchNorm one of a single row."""
        if self.config.accumulate == 1:
            return 1
        least = self.processes.count * (2 if batch_norms(self.model) else 1)
        return max(1, min(-(-rows // self.batches.micro_rows), rows // least))

    def _seed_model(self) -> None:
        """The model's own randomness (dropout) depends on seed, step and process alone, so that a run can resume."""
        seed = derive_seed(self.seed, "model", self.state.total_steps, self.processes.rank)
        for generator in (torch.default_generator, torch_generator(self.device)):
            generator.manual_seed(seed)
        seed_sources(self.objective.traits.sources_to_seed, seed)  # numpy's, Python's, its modules' own

    def _pause(self) -> None:
        """Between two steps: a checkpoint if it is time, and the end if a signal asks for it."""
        asked = self._stopping.signal is not None
        if self.processes.count > 1:
            asked = self.processes.sum([float(asked)])[0] > 0  # all stop after the same step, or none
        every = self.config.checkpoint_every
        due = every is not None and self.state.total_steps % every == 0 and self.state.step < len(self.batches)
        if (asked or due) and self.batches.rewindable:
            self._checkpoint()
        if asked:
            assert self.checkpoints is not None
            logger.warning("Training stops on request. %s", self.checkpoints.last())
            self._stopping.signal = self._stopping.signal or signal.SIGTERM
            self._stopping.obey()

    def _finish(self) -> None:
        if self.stepper.average is not None:
            self.model.load_state_dict(self.stepper.average.module.state_dict())
        for chosen in best_weights(self):
            Trained(self.model, self.own).load_state_dict(chosen)
        self.model.eval()
        with in_callback():
            call(self.config.callbacks, "on_end", self.state)

    def _call(self, moment: str) -> None:
        """Call the callbacks; what one process's say of stopping goes for all."""
        if self.config.callbacks:
            self._changed = self._changed or any(hasattr(callback, moment) for callback in self.config.callbacks)
            with in_callback():
                call(self.config.callbacks, moment, self.state)
            if self.processes.count > 1:
                self.state.stop = self.processes.sum([float(self.state.stop)])[0] > 0

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        if self.checkpoints is not None:
            if self.inside:
                self.soundness.check_weights()
            self.checkpoints.write(self.state.total_steps, run_state(self))
