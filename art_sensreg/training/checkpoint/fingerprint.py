"""Which run a checkpoint belongs to: everything that its weights depend on, as texts that can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.training.checkpoint.describe import Describer, checksum, plain
from art_sensreg.training.config import TrainingConfig

Fingerprint = dict[str, dict[str, str]]

# What may differ between a run and its continuation: how long it is, where it runs, what it writes.
_FREE = {"nb_epochs", "device", "compile", "keep_freed_memory", "checkpoint_every", "keep", "callbacks"}
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
_CODE = re.compile(r"code (\d+\.\d+):[0-9a-f]+")
_SHOWN = 160


def fingerprint(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    config: TrainingConfig,
    data: str | Mapping[str, str],
    training_mode: bool = True,
    describe: Describer | None = None,
    further: Mapping[str, Mapping[str, str]] | None = None,
) -> Fingerprint:
    """
    Describe a run by everything that its weights depend on.

    :param model: The model.
    :param objective: The objective.
    :param optimizer: The optimizer.
    :param scheduler: The scheduler, or None.
    :param config: Settings; those that do not change the weights are left out, and so is `nb_epochs` unless the run's
        length counts.
    :param data: Description of the training data.
    :param training_mode: Whether the model trains in training mode.
    :param describe: What describes objects; a new one by default.
    :param further: More sections.
    :return: Sections of names and descriptions, in the order in which differences are looked for.

    Example:
    >>> from art_sensreg.training.checkpoint.fingerprint import fingerprint, first_difference
    >>> model, config = nn.Linear(3, 2), TrainingConfig(batch_size=64)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> one = fingerprint(model, Objective(), optimizer, None, config, "60000 images")
    >>> two = fingerprint(model, Objective(), optimizer, None, TrainingConfig(batch_size=32), "60000 images")
    >>> first_difference(one, two)
    'the setting `batch_size` is 64 in the checkpoint; expected 32'
    """
    describe = describe or Describer(own_things(model, optimizer, scheduler))
    settings: dict[str, str] = {}
    for name in (f.name for f in fields(config) if f.name not in _FREE):
        settings.update(describe(name, getattr(config, name)))  # a repr leaves out most of an array
        settings[name] = repr(getattr(config, name))
    if config.penalty_warmup:
        settings["penalty_warmup"] += f" of {config.nb_epochs} epochs"
    bounds = "none" if objective.clip_values is None else ", ".join(map(checksum, objective.clip_values))
    standardised = ", ".join(checksum(getattr(model, name)) for name in ("mean", "std") if _is_tensor(model, name))
    content = {"content": data} if isinstance(data, str) else dict(data)
    return {
        "module": dict(describe.modules((name or "(the model)", part) for name, part in model.named_modules())),
        "weight": _describe_weights(model),
        "setting": {**settings, "torch.get_default_dtype()": str(torch.get_default_dtype())},
        "term of the objective": _describe_terms(objective, describe),
        "optimizer's": _describe_optimizer(optimizer, model, describe),
        "scheduler's": _describe_scheduler(scheduler, describe),
        "training data's": {**content, "clip_values": bounds, "mean and std": standardised},
        "argument": {"training_mode": str(training_mode)},
        **{section: dict(entries) for section, entries in (further or {}).items()},
    }


def own_things(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> list[Any]:
    """
    What a run trains: see :class:`~art_sensreg.training.checkpoint.describe.Describer`.

    :param model: The model.
    :param optimizer: The optimizer.
    :param scheduler: The scheduler, or None.
    :return: They, with the model's modules and tensors.
    """
    things = [model, *model.modules(), *model.parameters(), *model.buffers(), optimizer]
    return things if scheduler is None else [*things, scheduler]


def first_difference(stored: Fingerprint, own: Fingerprint, moving: Mapping[str, Any] | None = None) -> str | None:
    """
    Compare two runs.

    :param stored: Fingerprint in a checkpoint.
    :param own: Fingerprint of this run.
    :param moving: Names by section of what changed while the run of the checkpoint went on: no settings.
    :return: The first difference in words, or None.
    """
    for section, entries in own.items():
        before = stored.get(section, {})
        for name in [*entries, *(name for name in before if name not in entries)]:
            came, expected = before.get(name, "missing"), entries.get(name, "none of that name")
            if not _same(came, expected) and name not in (moving or {}).get(section, ()):
                came, expected = _about_difference(came, expected)
                return f"the {section} `{name}` is {came} in the checkpoint; expected {expected}"
    return None


def changed(before: Fingerprint, now: Fingerprint) -> dict[str, list[str]]:
    """
    What a run has changed since it began: counters, running averages, a rate set by hand. It is no setting.

    :param before: Fingerprint of its start.
    :param now: Fingerprint of the same objects at present.
    :return: Names by section.

    Example:
    >>> from art_sensreg.training.checkpoint.fingerprint import changed
    >>> changed({"setting": {"a": "1", "b": "2"}}, {"setting": {"a": "1", "b": "3"}})
    {'setting': ['b']}
    """
    names = {
        section: [
            name
            for name in {**entries, **before.get(section, {})}
            if entries.get(name) != before.get(section, {}).get(name)
        ]
        for section, entries in now.items()
    }
    return {section: found for section, found in names.items() if found}


def describe_data(x: np.ndarray | torch.Tensor, y: np.ndarray | torch.Tensor) -> dict[str, str]:
    """
    Tell a data set from all others: by its size and checksums of every byte.

    :param x: Images, an array or tensor.
    :param y: Labels.
    :return: Names and texts.

    Example:
    >>> from art_sensreg.training.checkpoint.fingerprint import describe_data
    >>> describe_data(np.zeros((5, 2)), np.zeros(5)) == describe_data(np.ones((5, 2)), np.zeros(5))
    False
    """
    shape = f"{len(x)} images of shape {tuple(x.shape[1:])}"
    return {"content": f"{shape}, checksum {checksum(x)}", "labels": f"{len(y)}, checksum {checksum(y)}"}


def _same(came: str, expected: str) -> bool:
    if came == expected:
        return True
    versions = [set(_CODE.findall(text)) for text in (came, expected)]
    # Each version of Python has a bytecode of its own: code of different versions cannot be compared.
    return all(versions) and versions[0] != versions[1] and _CODE.sub("", came) == _CODE.sub("", expected)


def _about_difference(came: str, expected: str) -> tuple[str, str]:
    """Of long texts, what is around the first difference."""
    if max(len(came), len(expected)) <= 3 * _SHOWN:
        return came, expected
    alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(came, expected, strict=False))))
    first = max(0, alike - _SHOWN // 2)
    shown = [text[first : first + _SHOWN] for text in (came, expected)]
    return f"{'... ' if first else ''}{shown[0]} ...", f"{'... ' if first else ''}{shown[1]} ..."


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
            elif _CODE.search(text):
                texts[term] += f", {text}"
    return texts


def _describe_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, describe: Describer) -> dict[str, str]:
    """Of what a scheduler changes, the value that it started from."""
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
