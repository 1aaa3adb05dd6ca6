"""The steps of a run: the share of each process, the noise, the model's randomness, and non-finite values."""

from __future__ import annotations

import torch

from art_sensreg.adversaries.visits import PerturbationMemory
from art_sensreg.penalties.forward.batch_norm import batch_norms
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.training.batches import GlobalBatch, Transform, to_device
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.numerics.nonfinite import NonFiniteGuard
from art_sensreg.training.numerics.rollback import SavedBuffers
from art_sensreg.training.optimizers import match_layout
from art_sensreg.training.run import Progress, RunSetup
from art_sensreg.training.steps import LocalBatch, Stepper, has_unused_parameters
from art_sensreg.utils.model_rng import Replay, seed_sources, torch_generator
from art_sensreg.utils.rng import derive_seed

# Of an adversary's size while it rises: what penalties compare across less is lost in the rounding of activations.
_SMALLEST_SHARE = 2**-12


class StepRunner:
    """Does the steps of a run, whose model is on its device; with the objective's own tensors."""

    def __init__(self, setup: RunSetup, progress: Progress, objective_state: ObjectiveState) -> None:
        self._setup, self._progress, self.objective_state = setup, progress, objective_state
        self.model_may_have_changed = False
        self._device = setup.device
        unused = False
        if setup.processes.count > 1:
            # Of a loader no batch can be tried without losing it.
            unused = not setup.batches.rewindable
            if not unused:
                x, y, *_ = next(setup.batches.epoch(0, 0, setup.processes))
                unused = has_unused_parameters(setup.model, setup.objective, x[:2], y[:2], objective_state)
        match_layout(setup.optimizer)
        self.stepper = Stepper(setup, objective_state, unused, self._seed_model)
        stores = [module._buffers for module in setup.model.modules()]
        self._buffers = SavedBuffers([*stores, *objective_state.stores()])
        checkpoints, config = setup.checkpoints, setup.config
        self.finite = NonFiniteGuard(
            setup.model,
            None if self.stepper.average is None else self.stepper.average.module,
            objective_state.trained,
            config.max_skipped if config.on_nonfinite == "skip" else None,
            lambda: "" if checkpoints is None else f" {checkpoints.last()}",
        )
        self.perturbations = self._memory()
        self._renew_probes()

    def _memory(self) -> PerturbationMemory | None:
        """Where a carried adversary keeps its perturbations."""
        adversary, batches = self._setup.objective.adversary, self._setup.batches
        if adversary is None or not adversary.carries:
            return None
        if batches.count is None:
            raise ValueError(
                f"`adversary` is {adversary!r}, which keeps a perturbation of each image, and the batches do not say "
                "which images they hold; expected arrays, or a loader that yields images, labels and indices."
            )
        seed = derive_seed(self._progress.seed, "perturbations")
        return PerturbationMemory(adversary, batches.count, batches.look(1), seed)

    def resume(self) -> None:
        """Go by the run's seed and its last step, which a checkpoint has changed."""
        self._raise_gradually(max(self._progress.state.total_steps - 1, 0))
        self._renew_probes()

    def _renew_probes(self) -> None:
        make = _probes_outside_of_compiled_code if self._setup.config.compile else Probes
        self._probes = make(self._progress.seed, self._device)
        self._augmented = Probes(derive_seed(self._progress.seed, "augmentation"), self._device)

    def __call__(self, batch: GlobalBatch) -> bool:
        """Do a step with this process's images and labels of a batch; tell whether it counts."""
        if self.perturbations is not None and batch.indices is not None:
            batch = batch._replace(indices=to_device(batch.indices, self._device))
        y, total = batch.y, batch.total
        setup, progress, state = self._setup, self._progress, self._progress.state
        transform = self._transform(batch.x)
        x = batch.x if transform is None else transform.apply(batch.x, self._lowest())
        config, processes = setup.config, setup.processes
        noisy = total if config.penalty_fraction == 1 else max(1, round(config.penalty_fraction * total))
        own, share = processes.share(total, noisy)
        self._raise_gradually(state.total_steps)
        if self.model_may_have_changed:
            setup.objective.look_again(setup.model, x[:LOOK])
            self.model_may_have_changed = False
        self._buffers.take()
        probes = self._probes.at(state.total_steps, processes.rank, processes.count)
        try:
            with Replay(setup.objective.plan.sources_to_seed):
                self._seed_model()
                kept = None if self.perturbations is None else self._read(batch)
                start = kept if kept is None or transform is None else transform.apply(kept)
                compared = setup.guard is not None and setup.guard.compares(state.step)
                done = self.stepper(LocalBatch(x, y, own, start, compared), probes, share, self._pieces(total))
        except BaseException:
            self._buffers.restore()
            raise
        terms, logits, culprit = done.terms, done.logits, done.culprit
        state.terms = {name: value.detach() for name, value in terms.items()}
        state.step += 1
        state.total_steps += 1
        if culprit is not None:
            self._buffers.restore()  # running statistics, for one
            self.finite.leave_out(culprit, state)
            return False
        if done.moved is not None and kept is not None:
            self._keep(batch, done.moved if transform is None else transform.undo(done.moved, kept))
        if done.cosine is not None and setup.guard is not None:
            setup.guard.note_step(done.cosine, state)
        progress.sums.add(state.terms, logits.detach(), y[:own], total)
        return True

    def _raise_gradually(self, done: int) -> None:
        """While the run is young, weights and the adversary's size are below their full values."""
        config, objective = self._setup.config, self._setup.objective
        planned = config.nb_epochs * len(self._setup.batches)
        if config.penalty_warmup:
            objective.strength = min(1.0, done / max(config.penalty_warmup * planned, 1.0))
        if config.eps_warmup:
            share = (1 + done) / max(config.eps_warmup * planned, 1.0)
            objective.eps_share = min(1.0, max(share, _SMALLEST_SHARE))

    def _transform(self, x: torch.Tensor) -> Transform | None:
        """How the images of this process are augmented in this step; the same whatever the micro-batches."""
        augmentation, processes = self._setup.config.augmentation, self._setup.processes
        if augmentation is None:
            return None
        adversary, step = self._setup.objective.adversary, self._progress.state.total_steps
        if adversary is not None and adversary.replays:
            step //= adversary.replays  # the same images each time
        return augmentation.draw(x, self._augmented.at(step, processes.rank, processes.count))

    def _lowest(self) -> torch.Tensor | float:
        """What is put where an augmented image has no pixel: the lower end of the input range."""
        bounds = self._setup.objective.clip_values
        return 0.0 if bounds is None else bounds[0]

    def _read(self, batch: GlobalBatch) -> torch.Tensor:
        """Where the perturbations of this process's images stand."""
        assert self.perturbations is not None
        assert batch.indices is not None
        kept = self.perturbations.read(batch.indices[self._setup.processes.part(batch.total)])
        share = self._setup.objective.eps_share
        return kept if share == 1 else share * kept

    def _keep(self, batch: GlobalBatch, moved: torch.Tensor) -> None:
        """Keep the perturbations of all images of the batch, on every process: each will see others next time."""
        assert self.perturbations is not None
        assert batch.indices is not None
        # While `eps` rises, they are kept as what they are of the full size.
        share = self._setup.objective.eps_share
        levels, units = self.perturbations.encode(moved if share == 1 else moved / share)
        processes = self._setup.processes
        levels = processes.gather_examples(levels, batch.total)
        units = None if units is None else processes.gather_examples(units, batch.total)
        self.perturbations.put(batch.indices, levels, units)

    def _pieces(self, total: int) -> int:
        """The number of micro-batches of a step: none is empty on a process, or of a single example for BatchNorm."""
        if self._setup.config.accumulate == 1:
            return 1
        least = self._setup.processes.count * (2 if batch_norms(self._setup.model) else 1)
        return max(1, min(-(-total // self._setup.batches.micro_batch_size), total // least))

    def _seed_model(self) -> None:
        """The model's own randomness (dropout) depends on seed, step and process alone, so that a run can resume."""
        state = self._progress.state
        seed = derive_seed(self._progress.seed, "model", state.total_steps, state.rank)
        for generator in (torch.default_generator, torch_generator(self._device)):
            generator.manual_seed(seed)
        seed_sources(self._setup.objective.plan.sources_to_seed, seed)  # numpy's, Python's, its modules' own


def _probes_outside_of_compiled_code(seed: int, device: torch.device) -> Probes:
    """What is drawn must not become a constant of a compiled step."""

    class EagerProbes(Probes):
        windows = torch.compiler.disable(Probes.windows)
        generator = torch.compiler.disable(Probes.generator)

    return EagerProbes(seed, device)
