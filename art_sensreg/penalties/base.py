"""The base class of penalties, and the one forward pass in which several are measured together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.feature_sigma import FeatureSigma, smallest_size
from art_sensreg.penalties.forward.batch_norm import uses_batch_statistics
from art_sensreg.penalties.forward.branches import forward_branches
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.row_coupling import survey
from art_sensreg.penalties.forward.taps import Layers, TapPlan, plan_taps
from art_sensreg.penalties.inputs import Comparison, Measured, PenaltyInputs, Sigma, check_batch, of_one_process
from art_sensreg.utils import check_number, outside_inference_mode, python_numbers
from art_sensreg.utils.precision import full_float32, input_width, tf32_blurs


@dataclass(frozen=True, kw_only=True)
class FusedPenalty:
    """
    A penalty that is measured in the forward pass that all of them share, see :func:`measure`.

    Subclasses say which perturbed copies they need (`branches`), whether they read activations (`tapped_layers`),
    differentiate with respect to the input (`input_gradient`) or take the noise of another penalty (`shares_noise`),
    and compute their value (`evaluate`).

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
        """Whether the value depends on gradients with respect to the input."""
        return False

    @property
    def shares_noise(self) -> bool:
        """Whether the penalty is measured on the perturbed branches of the first penalty that reads layers."""
        return False

    @property
    def compares(self) -> bool:
        """Whether the value is made of differences between clean examples and noisy copies of them."""
        return self.tapped_layers is not None or self.shares_noise

    @property
    def assumes_independence(self) -> bool:
        """Whether the value is only correct if no example's logits depend on another example."""
        return False

    @property
    def inner_maximisation(self) -> bool:
        """Whether the penalty finds its perturbed copies itself, by gradient steps."""
        return False

    @property
    def of_whole_batch(self) -> bool:
        """Whether the value of a batch cannot be computed from those of its parts, one after another."""
        return False

    def check_tapped(self, names: Sequence[str]) -> None:
        """
        Check settings that depend on the tapped layers, before any weight changes.

        :param names: The layers, in the order of the forward pass.
        :raises ValueError: If a setting does not fit them.
        """

    def check_input(self, x: torch.Tensor) -> None:
        """
        Check settings whose shape depends on the inputs, before any weight changes.

        :param x: Some inputs, `(n, ...)`.
        :raises ValueError: If a `sigma` for each feature does not fit them.
        """
        sigma = getattr(self, "sigma", None)
        if isinstance(sigma, FeatureSigma):
            sigma.check_fits(x)

    def branches(
        self, model: nn.Module, x: torch.Tensor, generator: Randomness, clip_values: ClipValues | None
    ) -> tuple[list[torch.Tensor], Sigma]:
        """
        Make the perturbed copies that this penalty compares with the clean examples.

        :param model: The model, in the mode of the pass.
        :param x: Clean examples, `(m, ...)`, in the user's input units.
        :param generator: Source of randomness.
        :param clip_values: Input range as two broadcastable tensors, or None.
        :return: The copies, and the `s` they were made with.
        """
        return [], 1.0

    @abstractmethod
    def evaluate(self, compared: Comparison, generator: Randomness) -> torch.Tensor:
        """
        Compute the unweighted value.

        :param compared: The results of the forward pass.
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
        Measure this penalty alone. The model keeps its mode; BatchNorm's running statistics do not change.

        :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
        :param x: Batch of inputs, `(n, ...)`, floating point.
        :param y: Labels; not used by this penalty.
        :param generator: Source of randomness on the device of `x`; torch's global one if `None`.
        :param clip_values: Input range, needed only by penalties that clip.
        :return: Unweighted value, a 0-d tensor, differentiable with respect to the model's parameters.
        :raises TypeError: If `model` is not a module, or `x` not a floating point tensor.
        :raises ValueError: If the model cannot be tapped, or the penalty cannot be measured alone.
        """
        check_batch(model, x)
        check_together([self])
        bounds = None
        if clip_values is not None:
            low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in clip_values)
            bounds = (low, high)
        named = {self.name: self}
        plan = plan_forward(model, x, named)
        plan.warn_if_unstacked()
        sigma = getattr(self, "sigma", None)
        fine = sigma is not None and tf32_blurs(smallest_size(sigma), input_width(bounds))
        inputs = PenaltyInputs(x=x, generator=generator, clip_values=bounds)
        with full_float32(x.device) if fine else nullcontext():
            return measure(model, named, inputs, replace(plan, updates_state=False)).values[self.name]


def check_together(penalties: Sequence[object]) -> None:
    """Check that a penalty which shares another's noise has one to share it with; otherwise a ValueError."""
    fused = [penalty for penalty in penalties if isinstance(penalty, FusedPenalty)]
    needy = [penalty for penalty in fused if penalty.shares_noise]
    if needy and not any(penalty.tapped_layers is not None for penalty in fused):
        raise ValueError(
            f"`sigma` of {needy[0]!r} is None, which shares the noise of a SensitivityPenalty, and there is none with "
            "a weight above 0; give `sigma` a number, or add a SensitivityPenalty."
        )


def plan_layers(model: nn.Module, x: torch.Tensor, penalties: Mapping[str, FusedPenalty]) -> dict[str, TapPlan]:
    """
    Run the layer selection of each penalty that has one, once (see `taps.plan_taps`).

    A ValueError if the model does not have the layers, or a setting does not fit them.
    """
    taps: dict[str, TapPlan] = {}
    for name, penalty in penalties.items():
        penalty.check_input(x)
        if penalty.tapped_layers is None:
            continue
        tap = taps[name] = plan_taps(model, penalty.tapped_layers, x)
        penalty.check_tapped(tap.names)
    return taps


def plan_forward(
    model: nn.Module, x: torch.Tensor, penalties: Mapping[str, FusedPenalty], branches: bool = True
) -> ForwardPlan:
    """
    Find out, before any weight moves, how a model, in the mode in which it is trained, is to be run so that penalties
    can be measured on it, and on several branches if asked. ValueError if a layer selection does not fit the model, or
    a penalty cannot be measured on it.
    """
    taps = plan_layers(model, x, penalties)
    plan = replace(survey(model, x, branches), taps=taps)
    if penalties and not plan.repeatable:
        raise ValueError(
            "`model` returns different outputs for the same inputs and random states, so that clean and noisy images "
            "cannot be compared; expected random numbers from the global generators of torch, numpy or Python, or from "
            "generators that are attributes of modules or global variables named in their code."
        )
    for penalty in penalties.values():
        if plan.coupled and penalty.assumes_independence:
            raise ValueError(
                "`model` makes the logits of an example depend on other examples in a way other than through torch's "
                f"BatchNorm, and {penalty!r} sums over examples as if they were independent; expected another "
                "`estimator`."
            )
    return plan


def measure(
    model: nn.Module, penalties: Mapping[str, FusedPenalty], inputs: PenaltyInputs, plan: ForwardPlan
) -> Measured:
    """
    Measure all penalties in one forward pass over `[x ; x + s*xi ; ...]`.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
    :param penalties: The penalties, by name.
    :param inputs: What they are measured on.
    :param plan: How the model is run, from :func:`plan_forward`.
    :return: Logits and values; the plan is another one if the branches turned out not to be stackable.
    """
    x, generator, given = inputs.x, inputs.generator, inputs.given
    derivatives = any(penalty.input_gradient for penalty in penalties.values())
    some = x if inputs.noisy_rows is None or not plan.stacked else x[: inputs.noisy_rows]
    with torch.set_grad_enabled(torch.is_grad_enabled() or derivatives):
        branches = [_leaf(x) if derivatives else x, *([] if given is None else [given.x])]
        first = len(branches)
        made_for: dict[str, tuple[range, Sigma]] = {}
        for name, penalty in penalties.items():
            if given is not None and given.sigma is not None and penalty.compares:
                made_for[name] = range(1, 2), given.sigma
                continue
            with plan.moved.preserved():
                made, sigma = penalty.branches(model, some, generator, inputs.clip_values)
            made_for[name] = range(len(branches), len(branches) + len(made)), sigma
            branches.extend(made)
        taps = [plan.taps[name] for name in penalties if name in plan.taps]
        passed = forward_branches(model, branches, taps, plan, derivatives and uses_batch_statistics(plan.norms))
        layers = iter(passed.layers)
        values = {}
        for name, penalty in penalties.items():
            perturbed, sigma = made_for[name]
            if penalty.shares_noise and not perturbed:
                perturbed, sigma = made_for[next(filter(plan.taps.__contains__, penalties))]
            tapped = next(layers) if name in plan.taps else ()
            compared = Comparison(passed, perturbed, sigma, tapped, inputs.over_processes.get(name, of_one_process))
            values[name] = penalty.evaluate(compared, generator)
    logits = passed.logits[:first]
    if not torch.is_grad_enabled():
        logits, values = [z.detach() for z in logits], {name: value.detach() for name, value in values.items()}
    return Measured(logits, values, plan.unstacked(passed.refused) if passed.refused else plan)


# `torch.compile` of earlier versions stops at the contexts of the fused pass, or fails: there it runs uncompiled.
COMPILES_PASSES = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)
if not COMPILES_PASSES:
    measure = torch.compiler.disable(measure)


def _leaf(x: torch.Tensor) -> torch.Tensor:
    """A copy that requires grad; if `x` itself does, gradients flow on to it."""
    return x.clone() if x.requires_grad else x.detach().requires_grad_(True)
