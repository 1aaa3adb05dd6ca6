"""Which run a checkpoint belongs to: everything that its weights depend on, as texts that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.training.checkpoint.comparison import CODE, Fingerprint
from art_sensreg.training.checkpoint.describe import Describer, checksum, plain
from art_sensreg.training.run import RunSetup

# What may differ between a run and its continuation: how long it is, where it runs, what it writes.
_FREE = {"nb_epochs", "device", "compile", "keep_freed_memory", "checkpoint_every", "keep", "callbacks"}
# Settings that earlier versions did not have: a checkpoint without them is of a run with their defaults.
_LATER = {"augmentation", "awp_gamma", "ema_warmup", "eps_warmup"}
_FORMS = {"params", "lr", "initial_lr", "fused", "foreach", "capturable"}
# What moves while a scheduler runs; anything else that does is found out when a checkpoint is written.
_MOVING = {
    "optimizer",
    "last_epoch",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
    "T_cur",
    "T_i",
    "base_lrs",
    "verbose",
}
_MOVING |= {"_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "_initial_step", "_init_is_better"}


def fingerprint(
    setup: RunSetup,
    data: Mapping[str, str],
    describe: Describer | None = None,
    further: Mapping[str, Mapping[str, str]] | None = None,
) -> Fingerprint:
    """
    Describe a run by everything that its weights depend on.

    :param setup: The run. Settings that do not change the weights are left out, and so is `nb_epochs` unless the run's
        length counts.
    :param data: Description of the training data.
    :param describe: What describes objects; a new one by default.
    :param further: More sections.

    Example:
    >>> from art_sensreg.training.batches import BatchSizes, TensorBatches
    >>> from art_sensreg.training import TrainingConfig
    >>> from art_sensreg.training.checkpoint.fingerprint import fingerprint
    >>> model = nn.Linear(3, 2)
    >>> setup = RunSetup(
    ...     model=model,
    ...     objective=Objective(),
    ...     batches=TensorBatches(torch.rand(10, 3), torch.zeros(10), BatchSizes(4)),
    ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...     config=TrainingConfig(batch_size=64),
    ... )
    >>> fingerprint(setup, {"content": "10 images"})["setting"]["batch_size"]
    '64'
    """
    model, objective, config = setup.model, setup.objective, setup.config
    describe = describe or Describer(own_things(setup))
    settings: dict[str, str] = {}
    for field in fields(config):
        name = field.name
        if name in _FREE or (name in _LATER and getattr(config, name) == field.default):
            continue
        settings.update(describe(name, getattr(config, name)))  # a repr leaves out most of an array
        settings[name] = repr(getattr(config, name))
    for name in ("penalty_warmup", "eps_warmup"):
        if getattr(config, name):
            settings[name] += f" of {config.nb_epochs} epochs"
    bounds = "none" if objective.clip_values is None else ", ".join(map(checksum, objective.clip_values))
    standardised = ", ".join(checksum(getattr(model, name)) for name in ("mean", "std") if _is_tensor(model, name))
    return {
        "module": dict(describe.modules((name or "(the model)", part) for name, part in model.named_modules())),
        "weight": _describe_weights(model),
        "setting": {**settings, "torch.get_default_dtype()": str(torch.get_default_dtype())},
        "term of the objective": _describe_terms(objective, describe),
        "optimizer's": _describe_optimizer(setup.optimizer, model, describe),
        "scheduler's": _describe_scheduler(setup.scheduler, describe),
        "training data's": {**data, "clip_values": bounds, "mean and std": standardised},
        "argument": {"training_mode": str(setup.training_mode)},
        **{section: dict(entries) for section, entries in (further or {}).items()},
    }


def own_things(setup: RunSetup) -> list[Any]:
    """What a run trains, with the model's modules and tensors: see :class:`Describer`."""
    model = setup.model
    things = [model, *model.modules(), *model.parameters(), *model.buffers(), setup.optimizer]
    return things if setup.scheduler is None else [*things, setup.scheduler]


def describe_data(x: np.ndarray | torch.Tensor, y: np.ndarray | torch.Tensor) -> dict[str, str]:
    """Describe a data set by its size and checksums of every byte."""
    shape = f"{len(x)} images of shape {tuple(x.shape[1:])}"
    return {"content": f"{shape}, checksum {checksum(x)}", "labels": f"{len(y)}, checksum {checksum(y)}"}


def _is_tensor(model: nn.Module, name: str) -> bool:
    return isinstance(getattr(model, name, None), torch.Tensor)


def _describe_weights(model: nn.Module) -> dict[str, str]:
    texts = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()
             if isinstance(value, torch.Tensor)}  # fmt: skip
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            texts[name] = f"{texts.get(name, tuple(parameter.shape))}, frozen"
    return texts


def _describe_terms(objective: Objective, describe: Describer) -> dict[str, str]:
    loss = objective.base_loss
    texts = {"base": plain(repr(loss)) if isinstance(loss, nn.Module) else type(loss).__name__, **objective.describe()}
    adversary = {} if objective.adversary is None else {"adversary": objective.adversary}
    for term, part in {"base": loss, **adversary, **objective.penalties}.items():
        for name, text in describe(term, part):
            if name != term:
                texts[name] = text
            elif CODE.search(text):
                texts[term] += f", {text}"
    return texts


def _describe_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, describe: Describer) -> dict[str, str]:
    """The optimizer's settings; of those that a scheduler changes, the value that it started from."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    texts = {"class": type(optimizer).__name__}
    texts.update((name, repr(value)) for name, value in optimizer.defaults.items() if name not in _FORMS - {"lr"})
    for number, group in enumerate(optimizer.param_groups):
        rate = group.get("initial_lr", group.get("lr"))
        texts[f"group {number}.lr"] = f"{float(rate or 0):.10g}"
        for key in sorted(set(group) - _FORMS):
            texts.update(describe(f"group {number}.{key}", group[key]))
        held = [names.get(id(parameter), f"another of shape {tuple(parameter.shape)}") for parameter in group["params"]]
        texts[f"group {number}.params"] = f"{len(held)} parameters: {', '.join(held)}"
    but = {"step", "defaults", "state", "param_groups", *(name for name in vars(optimizer) if name.startswith("_"))}
    return {**texts, **dict(describe.attributes("settings", optimizer, but=but))}


def _describe_scheduler(scheduler: Any, describe: Describer) -> dict[str, str]:
    texts = {"class": type(scheduler).__name__}
    if scheduler is None:
        return texts
    for name, text in describe.attributes("settings", scheduler, but=_MOVING):
        if name.rpartition(".")[2] not in _MOVING:
            texts[name.removeprefix("settings.")] = text
    return texts
