"""
How a model treats the examples of a batch, found out before training: may its branches be stacked into one batch?

They may if the clean examples come out as if they were alone, whatever the others are: the same logits, the same
buffers, no gradient from one to the other; and if nothing random is drawn but what the stacked branches share.
Otherwise they run one after another, with the same draws, and state moves with the clean branch only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.batch_norm import StatisticsGradient, batch_norms, uses_batch_statistics
from art_sensreg.penalties.forward.clean_branch import CleanBranchRules, UnstackableError
from art_sensreg.penalties.forward.draws import DRAWS, DROPOUTS, drops_nothing, of_parameter
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.recomputation import Again, recomputed_alike, recomputed_by
from art_sensreg.penalties.forward.trial_rows import two_batches, with_enough_rows
from art_sensreg.utils.model_rng import Replay, preserve_model, random_sources, same_states, seeded, torch_generator
from art_sensreg.utils.model_state import MovedState, Snapshot, moved_alike
from art_sensreg.utils.modes import eval_mode

# A prime: hardly any other dimension of a model is a multiple of it, or of twice it.
_ROWS = 7
LOOK = 2 * _ROWS
"""How many examples of the data :func:`survey` makes use of."""
# Share by which outputs may differ because a larger batch is summed in another order; and in a batch of equal size.
_ROUNDING = 1e-2
_SAME = 1e-5
_SMALL = 1e-3
_INFLUENCE = "the examples of a batch influence each other through something other than torch's BatchNorm"

State = dict[tuple[int, str], Any]


def survey(model: nn.Module, x: torch.Tensor, branches: bool = True) -> ForwardPlan:
    """
    Try a model in its present mode on the first :data:`LOOK` inputs, without leaving a trace, and plan how its branches
    are run; without branches, only randomness and checkpointing are looked for.

    Weights close to zero, with which many residual branches are initialised, are replaced during the trial: they would
    hide what the branch does. The random states of the caller do not matter, and do not move.
    """

    def look(count: int) -> ForwardPlan:
        with preserve_model(model, x.device, seed=0, weights=True):
            trial = _Trial(model, *two_batches(x.detach().clone(), count))
            if not branches:
                return trial.alone()
            with _general_weights(model):
                plan = trial.run()
            return trial.run() if trial.overflowed else plan

    with torch.inference_mode(False), torch.autocast(x.device.type, enabled=False):
        return with_enough_rows(look, _ROWS)


def treats_examples_alone(model: nn.Module, x: torch.Tensor, plan: ForwardPlan) -> bool:
    """Whether a batch may be computed in parts: an example's output depends on it alone, and no state moves."""
    rows = x[:2].detach()
    if len(rows) < 2 or uses_batch_statistics(plan.norms):
        return False
    if plan.random or plan.coupled or plan.moved or (plan.reason and not plan.stacked):
        return False
    with torch.no_grad(), preserve_model(model, x.device, seed=0, weights=True):
        whole = model(rows.clone())
        parts = torch.cat([model(row.clone()) for row in rows.split(1)])
    return whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)


class _Trial:
    """The passes of a survey."""

    def __init__(self, model: nn.Module, rows: torch.Tensor, others: torch.Tensor) -> None:
        self.model, self.rows, self.others = model, rows, others
        self.extremes: list[torch.Tensor] = []
        self.sources = random_sources(model, rows.device)
        self.norms = batch_norms(model)
        self.checkpointed = False
        self.untouched, self.overflowed = True, False
        self.snapshot = Snapshot(model, weights=False)

    def alone(self) -> ForwardPlan:
        """The plan for a model that sees nothing but clean batches."""
        draws = self._draws()
        return self._plan(random=draws, draws=draws)

    def run(self) -> ForwardPlan:
        """The plan for a model that sees several branches."""
        self.snapshot.restore()
        draws = self._draws()
        with eval_mode(self.model):  # adversarial images are made in evaluation mode
            draws = self._draws(passes=1) or draws
            moved = self.snapshot.changed()
        coupled, clean, state = self._alone()
        self.overflowed = not bool(torch.isfinite(clean).all())
        random = not self.untouched
        again, _, _ = self._pass([self.rows], update=False)
        moved += [*self.snapshot.changed(), *self._outside()]
        own_state = self._own_state(moved)
        reason = (_INFLUENCE if coupled else "") if draws else self._disagreement(clean, state)
        return self._plan(
            stacked=not draws and not reason,
            reason=reason,
            coupled=coupled,
            random=random or draws,
            draws=draws,
            repeatable=_close(again, clean),
            moved=own_state,
        )

    def _plan(self, **found: Any) -> ForwardPlan:
        return ForwardPlan(
            norms=self.norms,
            checkpointed=self.checkpointed,
            sources=tuple(self.sources),
            trial_size=len(self.rows),
            **found,
        )

    def _draws(self, passes: int = 2) -> bool:
        """Whether random numbers are drawn that stacked branches would not share, in passes of different seeds."""
        found = False
        for seed in range(passes):
            watch = _Watch([len(self.rows)], update_statistics=False)
            with self._prepared(seed), torch.no_grad(), watch:
                before = Replay(self.sources)
                self._model(self.rows.clone())
                found = found or not same_states(before) or bool(watch.generators)
            self.sources += [g for g in watch.generators if not any(g is source for source in self.sources)]
        return found

    def _alone(self) -> tuple[bool, torch.Tensor, State]:
        """Whether an example's logits depend on others in a clean batch; the logits; the state after."""
        fixed = uses_batch_statistics(self.norms)
        logits, x, statistics = self._pass([self.rows], input_gradient=fixed, gradient=True)
        state = dict(self.snapshot.values(current=True))
        with statistics.stopped() if fixed else nullcontext():
            slope = _slope(logits[:1], x, again=fixed)
        return slope is not None and bool(slope[1:].any()), logits.detach(), state

    def _outside(self) -> list[tuple[nn.Module, str]]:
        """What moves if inputs leave the range of the data, as noisy ones do; such ones, if the model takes them."""
        low, high = self.rows.min(), self.rows.max()
        margin = 0.3 * (high - low)
        self.extremes, moved = [], []
        for value in (low - margin, high + margin):
            rows = value.expand_as(self.rows)
            with suppress(Exception):  # whatever it says of them
                self._pass([rows], update=False)
                self.extremes.append(rows)
                moved += self.snapshot.changed()
        return moved

    def _disagreement(self, clean: torch.Tensor, state: State) -> str:
        """What is different for the clean examples if others are stacked under them, or empty."""
        rows = len(self.rows)
        first: torch.Tensor | None = None
        # Thresholds and ranges that are found in the batch have no gradient, and move with rows that differ much.
        for beside in (self.others, *self.extremes):
            try:
                logits, x, _ = self._pass([self.rows, beside], gradient=first is None)
            except UnstackableError as error:
                return str(error)
            if logits.shape[:1] != x.shape[:1]:
                return "it does not return one output for each example of the batch"
            slope = _slope(logits[:rows], x)
            # Passes of equal size round alike, so that little is enough to tell.
            same = _close(logits[:rows], clean) if first is None else _close(logits[:rows], first, _SAME)
            if not same or (slope is not None and bool(slope[rows:].any())):
                return _INFLUENCE
            first = logits[:rows].detach()
            start, after = dict(self.snapshot.values()), dict(self.snapshot.values(current=True))
            for key, value in state.items():
                if not moved_alike(start.get(key), value, after.get(key), _ROUNDING):
                    return f"noisy images would move its {key[1]!r}"
        one, other = self._pass([self.rows, self.rows])[0].split(rows)
        return "" if _close(one, other) else "it treats equal examples of a batch differently"

    def _pass(
        self, branches: list[torch.Tensor], update: bool = True, input_gradient: bool = False, gradient: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, StatisticsGradient]:
        """Logits of a pass from the state at the start, and what they can be differentiated with respect to."""
        rules = CleanBranchRules([len(branch) for branch in branches], update, input_gradient)
        x = torch.cat(branches).requires_grad_(gradient)
        with self._prepared(0, rules), torch.set_grad_enabled(gradient):
            before = Replay(self.sources)
            with rules:
                logits = self._model(x.clone())
            self.untouched = same_states(before)
        return logits, x, rules.gradient

    @contextmanager
    def _prepared(self, seed: int, rules: CleanBranchRules | None = None) -> Iterator[None]:
        self.snapshot.restore()
        self.snapshot.renew()
        inner = recomputed_by(self.model, rules, self.sources)

        def begin() -> Again:
            self.checkpointed = True
            return inner()

        with seeded(self.sources, seed), recomputed_alike(begin):
            yield

    def _model(self, x: torch.Tensor) -> torch.Tensor:
        output: Any = self.model(x)
        logits: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return logits

    def _own_state(self, moved: list[tuple[nn.Module, str]]) -> MovedState:
        """Without the counters of BatchNorm, which are taken care of, and what is only the record of a pass."""
        norms = {id(norm) for norm in self.norms}
        found = {}
        for module, name in moved:
            value = getattr(module, name, None)
            record = isinstance(value, torch.Tensor) and (value.requires_grad or value.shape[:1] == self.rows.shape[:1])
            counted = id(module) in norms and name == "num_batches_tracked"
            buffers = dict(module.named_buffers(recurse=False))
            if not counted and not (record and name not in buffers):
                found[id(module), name] = (module, name)
                # Other buffers of a module of which one has moved may do so another time.
                others = buffers if name in buffers and id(module) not in norms else ()
                found.update(((id(module), other), (module, other)) for other in others)
        return MovedState(list(found.values()))


class _Watch(CleanBranchRules):
    """Puts the random state back after draws that stacked branches share, so that what has moved it is another."""

    def __init__(self, sizes: Sequence[int], update_statistics: bool) -> None:
        super().__init__(sizes, update_statistics)
        self.generators: list[torch.Generator] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (kwargs or {}).get("generator")
        if isinstance(given, torch.Generator):
            self.generators.append(given)
        shared = func in DROPOUTS and self._shares(args, kwargs or {})
        shared = shared or (func in DRAWS and not DRAWS[func](args, kwargs or {}))
        if not shared:
            return super().__torch_function__(func, types, args, kwargs)
        tensor = args[0] if args else (kwargs or {})["input"]
        with Replay([torch_generator(tensor.device)]):
            return super().__torch_function__(func, types, args, kwargs)

    def _shares(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        named = dict(zip(("input", "p"), args, strict=False)) | kwargs
        quiet = drops_nothing(named.get("p", 0.5), args[2:], kwargs) or of_parameter(named["input"])
        return quiet or len(named["input"]) % self.rows == 0


@contextmanager
def _general_weights(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter is as good as zero."""
    generator = torch.Generator().manual_seed(0)
    replaced = []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() and bool(parameter.abs().max() < _SMALL):
                replaced.append((parameter, parameter.data))
                width = max(1.0, parameter[0].numel() if parameter.ndim > 1 else 1) ** 0.5
                drawn = torch.rand(parameter.shape, generator=generator) + 0.5
                parameter.data = drawn.to(parameter) / width
    try:
        yield
    finally:
        for parameter, data in replaced:
            parameter.data = data


def _slope(logits: torch.Tensor, x: torch.Tensor, again: bool = False) -> torch.Tensor | None:
    """Gradient of some combination of logits; None if they have no graph."""
    if not logits.requires_grad:
        return None
    mixed = (logits * torch.linspace(1.0, 2.0, logits.numel()).to(logits).view_as(logits)).sum()
    try:
        (slope,) = torch.autograd.grad(mixed, x, create_graph=again, allow_unused=True)
    except RuntimeError:  # in training it will say why
        return None
    return None if slope is None else slope.nan_to_num(0.0, 0.0, 0.0)  # of outputs that are not finite nothing is told


def _close(one: torch.Tensor, other: torch.Tensor, rounding: float = _ROUNDING) -> bool:
    if one.shape != other.shape:
        return False
    size = other.detach().abs().max() if other.numel() else 0.0
    far = ~((one - other).detach().abs() <= rounding * size + 1e-4 * rounding) & (one != other)
    return not bool((far & ~(one.isnan() & other.isnan())).any())
