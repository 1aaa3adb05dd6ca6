"""The function to be trained (the classifier's model behind its preprocessing) and its objective, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.adversaries import Adversary
from art_sensreg.art_bridge.checks import clip_bounds
from art_sensreg.art_bridge.preprocessing import Preprocessing
from art_sensreg.objectives import Objective
from art_sensreg.outputs import SingleOutput
from art_sensreg.penalties import FusedPenalty, GradientDiversityPenalty
from art_sensreg.penalties.effect import TappedLayer, TrainedBatch, penalty_effect, reaches_logits, tapped_layers
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.main_output import with_main_output
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.taps import trial
from art_sensreg.penalties.forward.trial_rows import trial_rows
from art_sensreg.penalty_lists import Penalty, active_penalties, unique_names
from art_sensreg.randomization import BayesianKL
from art_sensreg.training.checkpoint.loading import check_live_state
from art_sensreg.training.numerics.loss_checks import check_loss_alone
from art_sensreg.training.optimizers import needs_closure
from art_sensreg.training.schedules.stepping import check_scheduler
from art_sensreg.utils import check_differentiable, warn_caller
from art_sensreg.utils.arrays import shape_or_type
from art_sensreg.utils.modes import preserve_mode, set_mode

_WHY = (
    "They have a value, which is printed and counted in the loss, and a gradient of zero: what they measure comes "
    "before all that is trained, in a part that is frozen, detached or under torch.no_grad(), or inside an "
    "autograd.Function"
)


def prepare_training(
    classifier: PyTorchClassifier,
    penalties: Sequence[Penalty],
    x: torch.Tensor,
    adversary: Adversary | None = None,
    training_mode: bool = True,
) -> tuple[nn.Module, Objective]:
    """The function to be trained and its objective, checked on some inputs; warns about penalties without effect."""
    bounds = None
    if classifier.clip_values is not None:
        low, high = (
            torch.as_tensor(bound, dtype=x.dtype, device=x.device)
            for bound in clip_bounds(classifier.clip_values, classifier.input_shape)
        )
        bounds = (low, high)
    model = Preprocessing.of(classifier).trained_model()
    _check_output(classifier, model, x[:2])
    model = with_main_output(model, x, _outputs(classifier), training_mode)
    objective = Objective(penalties, classifier.loss, bounds, adversary)
    with preserve_mode(model.modules()):  # in training mode: only there does a model's own randomness show
        set_mode(model, training_mode)
        objective.prepare(model, x)
        check_loss_alone(objective, model, x[:2])
        warn_without_effect(model, x, penalties, trained_parameters(classifier), bounds, objective.plan)
    return model, objective


def trained_parameters(classifier: PyTorchClassifier) -> list[nn.Parameter]:
    """The parameters that are trained: those that require gradients and, if there is an optimizer, belong to it."""
    trained = [parameter for parameter in classifier.model.parameters() if parameter.requires_grad]
    if classifier.optimizer is None:
        return trained
    held = {id(parameter) for group in classifier.optimizer.param_groups for parameter in group["params"]}
    return [parameter for parameter in trained if id(parameter) in held]


def check_trainable(classifier: PyTorchClassifier, scheduler: Any) -> None:
    """Refuse a classifier without a loss or a suitable optimizer."""
    expected = "expected a torch optimizer of the model's parameters"
    if classifier.loss is None:
        raise ValueError("`loss` of the classifier is None; expected the loss to train with.")
    check_differentiable(classifier.model, "model")
    if classifier.optimizer is None:
        raise ValueError(f"`optimizer` of the classifier is None; {expected}.")
    needs_closure(classifier.optimizer)
    if not trained_parameters(classifier):
        trained = sum(parameter.requires_grad for parameter in classifier.model.parameters())
        raise ValueError(
            f"`optimizer` of the classifier holds none of the {trained} parameters that require gradients; {expected}."
        )
    check_scheduler(scheduler, classifier.optimizer)
    check_live_state(classifier.optimizer)


def warn_without_effect(
    model: nn.Module,
    x: torch.Tensor,
    penalties: Sequence[Penalty],
    parameters: Sequence[nn.Parameter],
    clip_values: ClipValues | None = None,
    plan: ForwardPlan | None = None,
) -> None:
    """
    Warn once about all penalties and tapped layers that cannot change any trained weight.

    Custom penalties are not called outside training. A ValueError if neither the logits nor any penalty depends on a
    trained weight.
    """
    inputs = trial_rows(x, 8 if plan is None else max(8, plan.trial_size))
    labels = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    batch = TrainedBatch(model=model, x=inputs, y=labels, parameters=parameters, clip_values=clip_values, plan=plan)
    found, without = [], []
    active = active_penalties(penalties)
    for name, penalty in zip(unique_names(active), active, strict=True):
        if not is_own(penalty):
            found.append(name)
            continue
        layers = layers_of(penalty, model, inputs, parameters)
        dead = [f"layer {number}, {layer}" for number, layer in enumerate(layers, 1) if not layer.trains]
        if (dead and len(dead) == len(layers)) or not penalty_effect(penalty, batch):
            without.append(f"`{name}` has no effect" + (f" (all layers: {'; '.join(dead)})" if dead else ""))
            continue
        found.append(name)
        if dead:
            without.append(f"`{name}` on {len(dead)} of its {len(layers)} layers ({'; '.join(dead)})")
    if not found and not reaches_logits(model, inputs, parameters):
        raise ValueError(
            "`model` returns logits that depend on no parameter that requires gradients and is held by the optimizer; "
            "expected something to train: is the whole model frozen, detached, or under torch.no_grad()?"
        )
    if without:
        warn_caller(
            f"Penalties without effect on any weight that is trained: {', '.join(without)}. {_WHY}. Name other "
            "`layers`, or train what precedes them."
        )


def is_own(penalty: Any) -> bool:
    """Whether a penalty is the package's own, or a subclass of one: only those may be computed before training."""
    return isinstance(penalty, (FusedPenalty, GradientDiversityPenalty, BayesianKL))


def layers_of(
    penalty: Any, model: nn.Module, x: torch.Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[TappedLayer, ...]:
    """The layers that a penalty reads; those of weight 0 train nothing."""
    selection = getattr(penalty, "tapped_layers", None)
    if selection is None:
        return ()
    layers = tapped_layers(model, x, selection, parameters)
    weights = getattr(penalty, "layer_weights", None) or [1.0] * len(layers)
    return tuple(
        layer if weight else replace(layer, trains=False) for layer, weight in zip(layers, weights, strict=True)
    )


def _check_output(classifier: PyTorchClassifier, model: nn.Module, x: torch.Tensor) -> None:
    """Whether the model returns one logit per class, for two inputs in evaluation mode."""
    with trial(model, x):
        logits = model(x.clone())
    shapes = [(len(x), outputs) for outputs in _outputs(classifier)]
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) not in shapes:
        came = shape_or_type(logits)
        raise ValueError(f"`model` returns {came} for {len(x)} images; expected logits of shape {shapes[0]}.")
    if logits.shape[1] == 1:
        SingleOutput.of(classifier).check()  # what accuracy is counted by


def _outputs(classifier: PyTorchClassifier) -> tuple[int, ...]:
    """The allowed numbers of outputs: one per class, or a single one for two classes."""
    classes = classifier.nb_classes
    return (classes, 1) if classes == 2 else (classes,)
