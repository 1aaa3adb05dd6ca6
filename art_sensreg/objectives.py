"""The objective minimised by a training step: a base loss plus weighted penalties, as named terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.adversaries.attacked_batch import AttackedBatch, perturbed_images
from art_sensreg.adversaries.gradient_pair import GradientPair
from art_sensreg.adversaries.kept_images import KeptImages
from art_sensreg.adversaries.start_pass import measure_from_start
from art_sensreg.adversaries.visits import Visit
from art_sensreg.penalties.base import FusedPenalty, measure, plan_forward
from art_sensreg.penalties.feature_sigma import smallest_size
from art_sensreg.penalties.forward.batch_norm import uses_batch_statistics
from art_sensreg.penalties.forward.branches import NO_PLAN, plain_forward, preserve_statistics
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness
from art_sensreg.penalties.forward.plan import works_in_place
from art_sensreg.penalties.forward.row_coupling import treats_examples_alone
from art_sensreg.penalties.inputs import WHOLE_BATCH, GivenBranch, PenaltyInputs, Share, counted
from art_sensreg.penalty_lists import Penalty, active_penalties, check_penalties, check_term, described, unique_names
from art_sensreg.utils.model_state import Composition, composition

_Found = tuple[Sequence[torch.Tensor], dict[str, torch.Tensor]]  # logits of the branches, values of the penalties


class Objective:
    """
    Base loss plus weighted penalties, computed with as few forward passes as possible.

    The package's penalties share one forward pass over `[x ; x + s*xi]`; a user's own penalty is called as
    `penalty(model, x, y)`. A penalty with weight 0 is not computed and draws no random numbers, so that training is bit
    for bit the same as without it. BatchNorm's running statistics are updated by the clean batch only. With an
    adversary the base loss is on perturbed images, or on both. Clean images take part only if some term needs them.

    :param penalties: See :func:`~art_sensreg.penalty_lists.check_penalties`.
    :param base_loss: Function of logits `(n, C)` and labels; cross-entropy by default.
    :param clip_values: Input range as two tensors that broadcast against a batch, or None.
    :param adversary: Adversarial training to combine with the penalties, or None.

    Example:
    >>> from art_sensreg import JacobianPenalty, SensitivityPenalty
    >>> from art_sensreg.objectives import Objective
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> x, y = torch.rand(8, 4), torch.zeros(8, dtype=torch.long)
    >>> objective = Objective([SensitivityPenalty(), JacobianPenalty()])
    >>> objective.prepare(model, x)
    >>> terms, logits = objective(model, x, y)
    >>> list(terms)
    ['loss', 'base', 'sensitivity', 'jacobian']
    """

    def __init__(
        self,
        penalties: Sequence[Penalty] = (),
        base_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        clip_values: ClipValues | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        active = active_penalties(check_penalties(penalties, adversary))
        self.names = unique_names(active)
        named = dict(zip(self.names, active, strict=True))
        self.base_loss = base_loss or nn.CrossEntropyLoss()
        self.additive = getattr(self.base_loss, "reduction", "mean") == "sum"  # the sum over the examples of a batch
        self.clip_values = clip_values
        self.adversary = adversary
        self.images = KeptImages()
        self.pair: GradientPair | None = None  # of the part of a step that is computed, if gradients are compared
        self.attacked: Callable[[], AbstractContextManager[None]] = nullcontext  # keeps what a loss remembers
        self.strength = self.eps_share = 1.0  # of all weights, and of the adversary's size, for a while after the start
        self.plan = NO_PLAN
        self._pair_size = 0.0
        self._fused = {name: p for name, p in named.items() if isinstance(p, FusedPenalty)}
        self._separate = {name: p for name, p in named.items() if name not in self._fused}
        self.penalties: dict[str, Penalty] = {**self._fused, **self._separate}
        self._weights = {name: float(getattr(penalty, "weight", 1.0)) for name, penalty in named.items()}
        self._composition: Composition = frozenset()
        for penalty in self._fused.values():
            if getattr(penalty, "clip", False) and clip_values is None:
                raise ValueError(f"`clip` of {penalty!r} is True; expected a classifier that has `clip_values`.")

    def prepare(self, model: nn.Module, x: torch.Tensor) -> None:
        """
        Plan the forward pass on some inputs `(n, ...)`, before any weight moves. ValueError if a layer selection does
        not fit the model, or a penalty cannot be measured on it.
        """
        if self.adversary is not None:
            self._pair_size = self.adversary.pair_size(x)
        self._make_plan(model, x)

    def look_again(self, model: nn.Module, x: torch.Tensor) -> None:
        """Plan anew if parts of the model have been replaced or switched on since, by a callback or a schedule."""
        if composition(model) != self._composition:
            self._make_plan(model, x)

    def _make_plan(self, model: nn.Module, x: torch.Tensor) -> None:
        self._composition = composition(model)
        before = self.plan.reason
        plan = plan_forward(model, x, self._fused, bool(self.penalties or self.adversary is not None))
        clean = bool(self._fused) or (self.adversary is not None and self.adversary.needs_clean)
        if clean and plan.reason != before:  # once
            plan.warn_if_unstacked()
        separable = bool(self._fused) and treats_examples_alone(model, x, plan)
        in_place = self.keeps_input and works_in_place(model, x)
        self.plan = replace(plan, separable=separable, overwrites_input=in_place)

    @property
    def smallest_sigma(self) -> float | None:
        """The smallest `sigma` that a difference of activations is divided by, or None."""
        if self.adversary is not None and self.compared_as != "noisy":
            return self.eps_share * self._pair_size
        given = [getattr(penalty, "sigma", None) for penalty in self._fused.values()]
        return min((smallest_size(sigma) for sigma in given if sigma is not None), default=None)

    @property
    def inner_maximisation(self) -> bool:
        """Whether a step looks for perturbed images by gradient steps of its own."""
        return self.adversary is not None or any(penalty.inner_maximisation for penalty in self._fused.values())

    @property
    def attacker(self) -> Adversary | None:
        """The adversary as it is in this step."""
        return self.adversary and self.adversary.at_strength(self.strength).at_size(self.eps_share)

    @property
    def compared_as(self) -> str:
        """What penalties compare (see `Adversary`): of all but `noisy` copies, every example has one."""
        compared = any(penalty.compares for penalty in self._fused.values())
        return self.adversary.pair if compared and self.adversary is not None else "noisy"

    @property
    def _pairs_apart(self) -> bool:
        """Whether perturbed images may be compared of a part of the examples only, which the others do not change."""
        adversary, penalties = self.adversary, self._fused.values()
        if adversary is None or adversary.of_whole_batch or not (self.plan.separable and self.plan.stacked):
            return False
        whole = adversary.needs_clean or not all(p.compares for p in penalties)
        return self.compared_as == "start" or (self.compared_as == "adversarial" and not whole)

    @property
    def _of_noisy_rows(self) -> set[str]:
        """The penalties that are means over the examples with noisy copies; the others are of all."""
        apart = self.compared_as == "noisy" or self._pairs_apart
        fused = self._fused.items() if self.plan.stacked else ()
        return {name for name, p in fused if not p.input_gradient and (apart or not p.compares)}

    @property
    def keeps_input(self) -> bool:
        """Whether the graph of a step reaches back to images, whose gradients its backward pass need not compute."""
        return self.double_backward or self.compared_as == "start"

    @property
    def compilable(self) -> bool:
        """Whether `torch.compile` takes a step: no gradient is differentiated, and none taken inside it."""
        again = any(getattr(penalty, "double_backward", False) for penalty in self._separate.values())
        return not (again or self.double_backward or self.inner_maximisation)

    @property
    def double_backward(self) -> bool:
        """Whether some penalty of the package is made of gradients with respect to the input."""
        return any(penalty.input_gradient for penalty in self._fused.values())

    @property
    def parts(self) -> dict[str, Any]:
        """The base loss (`base`) and the penalties in use, by name."""
        return {"base": self.base_loss, **self.penalties}

    def describe(self) -> dict[str, str]:
        """What each penalty is, by name: its `repr`, where that says more than an address in memory."""
        return described(self.penalties, self._weights, self.adversary)

    @property
    def only_base_loss(self) -> bool:
        """Whether an adversary, if any, only changes the images, and the loss is divided as the base loss is."""
        return self.adversary is None or type(self.adversary).combine is Adversary.combine

    def weights(self, share: Share) -> dict[str, float | torch.Tensor]:
        """What each term of one process counts in the term of the global batch; over the processes 1 on average."""
        names = ("base", *(["adversarial"] if self.adversary else []), *self.names)
        counts: dict[str, float | torch.Tensor] = dict.fromkeys(names, share.weight)
        counts.update(dict.fromkeys(self._of_noisy_rows, share.noisy_weight))
        weight = share.sum_weight if self.additive else share.base_weight
        if self.only_base_loss and weight is not None:
            counts.update({name: weight for name in counts if name in ("base", "adversarial")})
        return counts

    def __call__(
        self,
        model: nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        generator: Randomness = None,
        share: Share = WHOLE_BATCH,
        visit: Visit | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """
        Compute all terms on a batch.

        `share`: which examples get noisy copies, and what the terms count; `visit`: of a carried adversary, the
        perturbations to start from; what they become is noted in it.

        :return: The terms (`loss`, the weighted sum; `base`; with an adversary its part of `base`, `adversarial`; each
            penalty's unweighted value) and the clean logits; with an adversary whose loss needs none, those of the
            perturbed images.
        """
        counts = self.weights(share)
        inputs = PenaltyInputs(
            x=x, generator=generator, clip_values=self.clip_values, noisy_rows=share.noisy_rows,
            over_processes=share.over_processes({name: counts[name] for name in self._fused}),
        )  # fmt: skip
        attacked = self.adversary is not None
        logits, found = self._measure_attacked(model, inputs, y, visit) if attacked else self._measure(model, inputs)
        if self._separate:
            with preserve_statistics(model, len(x), self.plan):
                for name, penalty in self._separate.items():
                    drawn = {"generator": generator} if getattr(penalty, "draws_noise", False) else {}
                    found[name] = check_term(name, penalty(model, x, y, **drawn))
        terms = {name: counted(term, counts["base"]) for name, term in self._base_terms(logits, y).items()}
        whole = isinstance(counts["base"], float) and counts["base"] == 1
        loss = terms["base"] if whole else terms["base"] * counts["base"]
        for name in self.names:
            loss = loss + self.strength * self._weights[name] * counts[name] * found[name]
        # Which logits are returned depends on the settings, and not on what a share of the batch happens to need.
        shown = logits[0] if self.adversary is None or self.adversary.needs_clean else logits[-1]
        return {"loss": loss, **terms, **{name: found[name] for name in self.names}}, shown

    def _measure_attacked(
        self, model: nn.Module, inputs: PenaltyInputs, y: torch.Tensor, visit: Visit | None
    ) -> _Found:
        """As :meth:`_measure`, with perturbed images; what becomes of the perturbations is noted in the visit."""
        x, adversary = inputs.x, self.attacker
        assert adversary is not None
        if visit is None and (adversary.carries or self.compared_as == "start"):
            visit = Visit(adversary.draw_start(x, inputs.generator))
        rows = inputs.noisy_rows if self._pairs_apart else None
        batch = AttackedBatch(
            x, None if visit is None else visit.start, y, self.base_loss, self.clip_values, inputs.generator,
            self.attacked, self.images, inputs.over_processes, self.pair,
        )  # fmt: skip
        if visit is not None and self.compared_as == "start" and rows != 0:
            if rows is not None and rows < len(x):
                return self._measure_parts(model, inputs, y, visit)
            measured = measure_from_start(model, adversary, batch, self._fused, self.plan)
            visit.moved = measured.perturbed.detach() - x
            return measured.logits, measured.values
        if visit is not None and adversary.free:
            perturbed = visit.begin(adversary, x, self.clip_values)
            if adversary.pair == "noisy" and not adversary.needs_clean:  # copies of what is trained on
                return self._measure(model, replace(inputs, x=perturbed))
        else:
            perturbed = perturbed_images(model, adversary, batch, self.plan)
            if visit is not None:
                visit.moved = perturbed.detach() - x
        size = adversary.pair_size(x) if self.compared_as == "adversarial" else None
        return self._measure_perturbed(model, inputs, GivenBranch(perturbed, size))

    def _measure_parts(self, model: nn.Module, inputs: PenaltyInputs, y: torch.Tensor, visit: Visit) -> _Found:
        """The examples whose start and end are compared, and then the others."""
        parts = slice(0, inputs.noisy_rows), slice(inputs.noisy_rows, None)
        visits = [Visit(visit.start[part]) for part in parts]
        first, rest = (
            self._measure_attacked(model, replace(inputs, x=inputs.x[part], noisy_rows=size), y[part], own)
            for part, size, own in zip(parts, (None, 0), visits, strict=True)
        )
        visit.moved = torch.cat([own.moved for own in visits if own.moved is not None])
        return [torch.cat(pair) for pair in zip(first[0], rest[0], strict=True)], first[1]

    def _measure_perturbed(self, model: nn.Module, inputs: PenaltyInputs, given: GivenBranch) -> _Found:
        """Logits of perturbed images, and the penalties, which may compare a part of them with the clean ones."""
        x, rows, perturbed = inputs.x, inputs.noisy_rows if self._pairs_apart else None, given.x
        if rows is None or given.sigma is None or rows >= len(x):
            return self._measure(model, replace(inputs, given=given))
        # Of the other examples only the perturbed images go through the model.
        others, values = self._measure(model, replace(inputs, noisy_rows=0, given=GivenBranch(perturbed[rows:])))
        if not rows:
            return others, values
        pairs = replace(inputs, x=x[:rows], noisy_rows=None, given=GivenBranch(perturbed[:rows], given.sigma))
        compared, values = self._measure(model, pairs)
        return [torch.cat([compared[-1], others[-1]])], values

    def _measure(self, model: nn.Module, inputs: PenaltyInputs) -> _Found:
        """Logits of the clean branch (if some term needs it) and of the perturbed one, and the penalties' values."""
        x, given, fused = inputs.x, inputs.given, self._fused
        if inputs.noisy_rows == 0:  # only what needs no noisy copies is measured
            noisy = self._of_noisy_rows
            fused = {name: penalty for name, penalty in fused.items() if name not in noisy}
            inputs = replace(inputs, noisy_rows=None)
        zeros = {} if len(fused) == len(self._fused) else dict.fromkeys(self._fused, x.new_zeros(()))
        # BatchNorm's statistics are those of the clean images, as where some of them have noisy copies.
        statistics = bool(self._fused) and uses_batch_statistics(self.plan.norms)
        if not fused and (self.adversary is None or not (self.adversary.needs_clean or statistics)):
            batch = x if given is None else given.x
            # A model that works in place must not change what the user's own penalties see.
            return [plain_forward(model, batch.clone() if self._separate else batch, self.plan)], zeros
        found = measure(model, fused, inputs, self.plan)
        if found.plan is not self.plan:
            self.plan = found.plan
        return found.logits, {**zeros, **found.values}

    def _base_terms(self, logits: Sequence[torch.Tensor], y: torch.Tensor) -> dict[str, torch.Tensor]:
        if (adversary := self.attacker) is None:
            return {"base": check_term("base", self.base_loss(logits[0], y))}
        base, part = adversary.combine(self.base_loss, logits[0] if len(logits) > 1 else None, logits[-1], y)
        return {"base": check_term("base", base), "adversarial": check_term("adversarial", part)}
