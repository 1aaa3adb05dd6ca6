"""What every penalty has in common, and the one pass in which several are measured together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.feature_sigma import smallest_size
from art_sensreg.penalties.forward.batch_norm import couples_rows
from art_sensreg.penalties.forward.branches import Branches, forward_branches
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.penalties.forward.plan import Traits, check_traits, warn_of
from art_sensreg.penalties.forward.row_coupling import survey
from art_sensreg.penalties.forward.taps import Layers, TapPlan, plan_taps
from art_sensreg.penalties.inputs import check_batch
from art_sensreg.utils import check_number, outside_inference_mode, python_numbers
from art_sensreg.utils.precision import full_float32, input_width, tf32_blurs

Sigma = float | torch.Tensor
ClipValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class GivenBranch:
    """
    Perturbed copies of a batch that somebody else has made, adversarial ones say.

    :param x: The copies, `(n, ...)`.
    :param sigma: If penalties that compare clean with noisy rows are to be measured on these copies and draw no noise:
        the `s` that their differences are divided by. Else None.
    """

    x: torch.Tensor
    sigma: Sigma | None = None


@dataclass(frozen=True, kw_only=True)
class PassPenalty:
    """
    A penalty that is measured in the shared forward pass of :func:`measure`.

    Subclasses say which extra branches they need (`branches`), whether they read activations (`tapped_layers`),
    differentiate by the input (`input_gradient`) or take the noise of another penalty (`shares_noise`), and compute
    their value.

    :param weight: Factor of the penalty in the objective, at least 0; 0 switches it off altogether.
    """

    weight: float = 1.0
    name: ClassVar[str] = "penalty"

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("weight", self.weight, minimum=0.0)

    @property
    def tapped_layers(self) -> Layers | None:
        """The layers that the pass must read for this penalty."""
        return None

    @property
    def input_gradient(self) -> bool:
        """Whether the value is made of derivatives with respect to the input."""
        return False

    @property
    def shares_noise(self) -> bool:
        """Whether the penalty is measured on the noisy branches of the first penalty that has some."""
        return False

    @property
    def compares(self) -> bool:
        """Whether the value is made of differences between clean rows and noisy copies of them."""
        return self.tapped_layers is not None or self.shares_noise

    @property
    def sums_rows(self) -> bool:
        """Whether the value is right only where no row's logits depend on another row."""
        return False

    @property
    def inner_maximisation(self) -> bool:
        """Whether the penalty looks for its perturbed copies itself, by gradient steps."""
        return False

    def check_input(self, x: torch.Tensor) -> None:
        """
        Check settings whose shape depends on the inputs, before any weight moves.

        :param x: Some inputs, `(n, ...)`.
        :raises ValueError: If a setting does not fit.
        """

    def branches(
        self, model: nn.Module, x: torch.Tensor, generator: Randomness, clip_values: ClipValues | None
    ) -> tuple[list[torch.Tensor], Sigma]:
        """
        Make the noisy copies of rows of the batch that this penalty compares with the clean ones.

        :param model: The model, in the mode of the pass.
        :param x: Clean rows, `(m, ...)`, in the user's input units.
        :param generator: Source of randomness.
        :param clip_values: Input range as two broadcastable tensors, or None.
        :return: The copies, and the `s` they were made with.
        """
        return [], 1.0

    @abstractmethod
    def evaluate(
        self, passed: Branches, noisy: Sequence[int], sigma: Sigma, selection: int, generator: Randomness
    ) -> torch.Tensor:
        """
        Compute the unweighted value from the branches of a pass.

        :param passed: What the pass gave; branch 0 is the clean one.
        :param noisy: Numbers of this penalty's own (or shared) branches.
        :param sigma: The `s` of the noisy branches.
        :param selection: Place of this penalty's layers in `Branches.layers`.
        :param generator: Source of randomness.
        :return: 0-d tensor.
        """

    @outside_inference_mode
    def __call__(
        self,
        model: nn.Module,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        clip_values: tuple[float, float] | ClipValues | None = None,
    ) -> torch.Tensor:
        """
        Measure the penalty alone. The model keeps its mode; BatchNorm's running statistics do not move.

        :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
        :param x: Batch of inputs, `(n, ...)`, floating point.
        :param y: Labels; not used by this penalty.
        :param generator: Source of randomness on the device of `x`; torch's global one if `None`.
        :param clip_values: Input range, needed only by penalties that clip.
        :return: Unweighted value, a 0-d tensor that can be differentiated by the model's parameters.
        :raises TypeError: If `model` is no module, or `x` no floating point tensor.
        :raises ValueError: If the model cannot be tapped, or the penalty cannot be measured alone.
        """
        check_batch(model, x)
        check_together([self])
        plans = plan_penalties(model, x, [self])
        bounds = None
        if clip_values is not None:
            low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in clip_values)
            bounds = (low, high)
        traits = survey(model, x)
        check_traits(traits, [self])
        warn_of(traits)
        sigma = getattr(self, "sigma", None)
        fine = sigma is not None and tf32_blurs(smallest_size(sigma), input_width(bounds))
        with full_float32(x.device) if fine else nullcontext():
            _, values = measure(
                model, x, [self], plans, generator, bounds, False, stacked=traits.stacked, traits=traits
            )
        return values[0]


def check_together(penalties: Sequence[object]) -> None:
    """
    Check that a penalty which shares another's noise has one to share it with.

    :param penalties: The penalties of one objective.
    :raises ValueError: If none of them draws noise.
    """
    passing = [penalty for penalty in penalties if isinstance(penalty, PassPenalty)]
    needy = [penalty for penalty in passing if penalty.shares_noise]
    if needy and not any(penalty.tapped_layers is not None for penalty in passing):
        raise ValueError(
            f"`sigma` of {needy[0]!r} is None, which shares the noise of a SensitivityPenalty, and there is none with "
            "a weight above 0; give `sigma` a number, or add a SensitivityPenalty."
        )


def plan_penalties(model: nn.Module, x: torch.Tensor, penalties: Sequence[PassPenalty]) -> list[TapPlan | None]:
    """
    Run each penalty's layer selection once on the model (see `taps.plan_taps`).

    :param model: The model.
    :param x: Some inputs.
    :param penalties: The penalties.
    :return: One plan for each penalty, None for those that tap no layer.
    :raises ValueError: If a selection fits the model not, or its weights are of another number.
    """
    plans: list[TapPlan | None] = []
    for penalty in penalties:
        penalty.check_input(x)
        layers = penalty.tapped_layers
        plan = None if layers is None else plan_taps(model, layers, x)
        weights = getattr(penalty, "layer_weights", None)
        if plan is not None and weights is not None and len(weights) != len(plan.names):
            raise ValueError(
                f"`layer_weights` has {len(weights)} entries; expected {len(plan.names)}, one for each tapped layer: "
                f"{', '.join(plan.names)}."
            )
        plans.append(plan)
    return plans


def measure(
    model: nn.Module,
    x: torch.Tensor,
    penalties: Sequence[PassPenalty],
    plans: Sequence[TapPlan | None],
    generator: Randomness = None,
    clip_values: ClipValues | None = None,
    update_statistics: bool = True,
    stacked: bool = True,
    noisy_rows: int | None = None,
    norms: Sequence[nn.Module] | None = None,
    copy: bool = True,
    given: GivenBranch | None = None,
    traits: Traits | None = None,
) -> tuple[Sequence[torch.Tensor], list[torch.Tensor]]:
    """
    Measure all penalties in one forward pass over `[x ; x + s*xi ; ...]`.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
    :param x: Clean batch, `(n, ...)`.
    :param penalties: The penalties.
    :param plans: Their plans, from :func:`plan_penalties`.
    :param generator: Source of randomness.
    :param clip_values: Input range as two broadcastable tensors.
    :param update_statistics: Whether BatchNorm's running statistics move.
    :param stacked: Whether the branches may be stacked into one batch (see `row_coupling.survey`).
    :param noisy_rows: How many of the first rows get noisy copies; all if None or if the branches are not stacked.
    :param norms: The model's BatchNorm layers, for who knows them: looking for them takes time.
    :param copy: As for `passes.forward_branches`.
    :param given: A branch that comes after the clean one, or None.
    :param traits: What is known of the model (see `row_coupling.survey`).
    :return: The logits of the clean branch and, if there is one, the given, `(n, C)` each; and each penalty's
        unweighted value.
    """
    derivatives = any(penalty.input_gradient for penalty in penalties)
    some = x if noisy_rows is None or not stacked else x[:noisy_rows]
    with torch.set_grad_enabled(torch.is_grad_enabled() or derivatives):
        inputs = [_leaf(x) if derivatives else x, *([] if given is None else [given.x])]
        first = len(inputs)
        spans: list[tuple[range, Sigma]] = []
        for penalty in penalties:
            if given is not None and given.sigma is not None and penalty.compares:
                spans.append((range(1, 2), given.sigma))
                continue
            with nullcontext() if traits is None else traits.moved.kept():
                made, sigma = penalty.branches(model, some, generator, clip_values)
            spans.append((range(len(inputs), len(inputs) + len(made)), sigma))
            inputs.extend(made)
        selections = [(p.tapped_layers, plan) for p, plan in zip(penalties, plans, strict=True) if plan is not None]
        per_row = derivatives and couples_rows(model, norms)
        passed = forward_branches(
            model,
            inputs,
            selections,  # type: ignore[arg-type]
            update_statistics,
            stacked,
            per_row,
            copy,
            traits,
        )
        values = []
        selection = 0
        for penalty, own, plan in zip(penalties, spans, plans, strict=True):
            span, sigma = _donor(penalties, spans) if penalty.shares_noise and not len(own[0]) else own
            values.append(penalty.evaluate(passed, span, sigma, selection, generator))
            selection += plan is not None
    logits = passed.logits[:first]
    if not torch.is_grad_enabled():
        return [z.detach() for z in logits], [value.detach() for value in values]
    return logits, values


def _donor(penalties: Sequence[PassPenalty], spans: Sequence[tuple[range, Sigma]]) -> tuple[range, Sigma]:
    return next(span for penalty, span in zip(penalties, spans, strict=True) if penalty.tapped_layers is not None)


def _leaf(x: torch.Tensor) -> torch.Tensor:
    """A copy to differentiate by; where the caller differentiates by `x` himself, gradients flow on to it."""
    return x.clone() if x.requires_grad else x.detach().requires_grad_(True)
