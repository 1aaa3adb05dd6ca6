"""Which run a checkpoint belongs to, and the random state outside of this package: what `resume=True` goes by."""

from __future__ import annotations

import json
import logging
import random
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.training.checkpoints import check_folder, list_checkpoints, read_newest, write_checkpoint
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes

logger = logging.getLogger(__name__)

# What may differ between a run and its continuation: how long it is, where it runs, what it writes.
_FREE = {"nb_epochs", "device", "compile", "checkpoint_every", "keep", "callbacks"}


def fingerprint(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    config: TrainingConfig,
    data: str,
    training_mode: bool = True,
) -> dict[str, dict[str, str]]:
    """
    Describe a run by everything that its weights depend on.

    :param model: The model.
    :param objective: The objective.
    :param optimizer: The optimizer.
    :param scheduler: The scheduler, or None.
    :param config: Settings; those that do not change the weights are left out, and so is `nb_epochs`.
    :param data: Description of the training data.
    :param training_mode: Whether the model trains in training mode.
    :return: Sections of names and descriptions, in the order in which differences are looked for.

    Example:
    >>> from art_sensreg.training.resume import fingerprint, first_difference
    >>> model, config = nn.Linear(3, 2), TrainingConfig(batch_size=64)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> one = fingerprint(model, Objective(), optimizer, None, config, "60000 images")
    >>> two = fingerprint(model, Objective(), optimizer, None, TrainingConfig(batch_size=32), "60000 images")
    >>> first_difference(one, two)
    'the setting `batch_size` is 64 in the checkpoint; expected 32'
    """
    modules = {name or "(the model)": _plain(_describe(module)) for name, module in model.named_modules()}
    weights = {name: f"{tuple(value.shape)} {value.dtype}" for name, value in model.state_dict().items()}
    bounds = "none" if objective.clip_values is None else ", ".join(map(_checksum, objective.clip_values))
    standardised = ", ".join(_checksum(getattr(model, name)) for name in ("mean", "std") if hasattr(model, name))
    settings = {f.name: repr(getattr(config, f.name)) for f in fields(config) if f.name not in _FREE}
    defaults = {
        name: repr(value)
        for name, value in optimizer.defaults.items()
        if name not in ("fused", "foreach", "capturable")
    }
    groups = {f"group {number}": _describe_group(group) for number, group in enumerate(optimizer.param_groups)}
    return {
        "module": modules,
        "weight": weights,
        "setting": settings,
        "term of the objective": {"base": _describe_loss(objective.base_loss), **objective.describe()},
        "optimizer's": {"class": type(optimizer).__name__, **defaults, **groups},
        "scheduler's": {"class": type(scheduler).__name__, **_describe_scheduler(scheduler)},
        "training data's": {"content": data, "clip_values": bounds, "mean and std": standardised},
        "argument": {"training_mode": str(training_mode)},
    }


def first_difference(stored: dict[str, dict[str, str]], own: dict[str, dict[str, str]]) -> str | None:
    """
    Compare two runs.

    :param stored: Fingerprint in a checkpoint.
    :param own: Fingerprint of this run.
    :return: The first difference in words, or None.
    """
    for section, entries in own.items():
        before = stored.get(section, {})
        for name in [*entries, *(name for name in before if name not in entries)]:
            came, expected = before.get(name, "missing"), entries.get(name, "none of that name")
            if came != expected:
                return f"the {section} `{name}` is {came} in the checkpoint; expected {expected}"
    return None


def _checksum(values: torch.Tensor) -> str:
    return f"{zlib.crc32(values.detach().cpu().contiguous().numpy().tobytes()):08x}"


def _describe_group(group: dict[str, Any]) -> str:
    """Of what a scheduler changes, the value that it started from."""
    rate, decay = group.get("initial_lr", group.get("lr")), group.get("weight_decay")
    return f"{len(group['params'])} parameters, lr {float(rate or 0):g}, weight_decay {decay}"


def _describe_loss(loss: Any) -> str:
    """A loss with its settings, which its `repr` does not tell."""
    if not isinstance(loss, nn.Module):
        return _plain(str(getattr(loss, "__qualname__", type(loss).__qualname__)))
    simple = {n: v for n, v in vars(loss).items() if n[0] != "_" and isinstance(v, (bool, int, float, str))}
    simple.pop("training", None)
    tensors = {name: _checksum(value) for name, value in loss.state_dict().items()}
    return f"{_plain(repr(loss))} with { ({**simple, **tensors}) }"


# What moves while a scheduler runs.
_MOVING = re.compile(r"_.*|last_epoch|best|num_bad_epochs|cooldown_counter|T_cur|T_i|base_lrs|verbose")


def _describe_scheduler(scheduler: Any) -> dict[str, str]:
    state = {} if scheduler is None else scheduler.state_dict()
    kept = {name: value for name, value in state.items() if not _MOVING.fullmatch(name)}
    described = {name: repr(value) for name, value in kept.items() if isinstance(value, (bool, int, float, str, list))}
    for number, inner in enumerate(getattr(scheduler, "_schedulers", ())):
        described.update({f"{number}.{name}": text for name, text in _describe_scheduler(inner).items()})
    return described


def _describe(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _plain(text: str) -> str:
    """Without addresses in memory, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe_data(x: Any, y: Any) -> str:
    """
    Tell a data set from others by its size and a sample of its content.

    :param x: Images, an array.
    :param y: Labels, an array.
    :return: A short text.

    Example:
    >>> from art_sensreg.training.resume import describe_data
    >>> describe_data(np.zeros((5, 2)), np.zeros(5)) == describe_data(np.ones((5, 2)), np.zeros(5))
    False
    """
    step = max(1, len(x) // 64)
    sample = zlib.crc32(np.ascontiguousarray(x[::step]).tobytes())
    labels = zlib.crc32(np.ascontiguousarray(y).tobytes())
    return f"{len(x)} images of shape {tuple(x.shape[1:])}, checksums {sample:08x} and {labels:08x}"


@dataclass
class Checkpoints:
    """
    The checkpoints of one run.

    :param folder: Where they are.
    :param keep: Number of the newest that are kept.
    :param resume: Whether to continue from the newest.
    :param run: Fingerprint of the run.
    :param processes: Only the first one writes.
    """

    folder: Path
    keep: int
    resume: bool
    run: dict[str, dict[str, str]]
    processes: Processes

    def newest(self) -> dict[str, Any] | None:
        """
        Read the newest checkpoint that can be read; on every process.

        :return: What was stored; None to start anew.
        :raises OSError: If the folder cannot be written.
        :raises ValueError: If no checkpoint can be read, it is of another run, or there are some and `resume` is False.
        """
        tree: dict[str, Any] | None = None
        error: Exception | None = None
        if self.processes.rank == 0:
            try:
                tree = self._read()
            except (OSError, ValueError) as reason:
                error = reason
        tree, error = self.processes.agree((tree, error))
        if error is not None:
            raise error
        return tree

    def _read(self) -> dict[str, Any] | None:
        check_folder(self.folder)
        if not self.resume:
            if list_checkpoints(self.folder):
                raise ValueError(
                    f"`checkpoint_dir` {str(self.folder)!r} holds checkpoints of an earlier run; expected resume=True "
                    "to continue it, or another folder."
                )
            return None
        found = read_newest(self.folder)
        if found is None:
            return None
        path, tree = found
        difference = first_difference(json.loads(tree["run"]), self.run)
        if difference:
            raise ValueError(f"`resume`: {path.name} is of another run: {difference}.")
        logger.info("Training continues from %s.", path)
        return dict(tree)

    def write(self, step: int, tree: dict[str, Any]) -> None:
        """
        Write a checkpoint; the first process does, the others wait for the outcome.

        :param step: Steps done in all.
        :param tree: What to store.
        :raises OSError: If it cannot be written; the last one is intact.
        """
        error = None
        if self.processes.rank == 0:
            try:
                write_checkpoint(self.folder, step, {**tree, "run": json.dumps(self.run)}, self.keep)
            except OSError as reason:
                error = reason
        error = self.processes.agree(error)
        if error is not None:
            raise error

    def last(self) -> str:
        """The newest checkpoint, in words, for error messages."""
        names = [path.name for path in list_checkpoints(self.folder)[:1]]
        return f"The last good checkpoint is {names[0]}." if names else "There is no checkpoint yet."


@contextmanager
def outer_randomness_kept() -> Iterator[None]:
    """
    Inside, Python's and numpy's global generators may be seeded: outside they go on as if nothing had been drawn.

    Example:
    >>> from art_sensreg.training.resume import outer_randomness_kept
    >>> before = random.getstate()
    >>> with outer_randomness_kept():
    ...     random.seed(0)
    >>> random.getstate() == before
    True
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def random_state() -> dict[str, Any]:
    """The global random states that code of the user's own may draw from: Python's, numpy's and torch's."""
    kind, words, numbers = random.getstate()
    name, keys, position, has_gauss, gauss = np.random.get_state()
    cuda = list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else []
    return {
        "python": [kind, list(words), numbers],
        "numpy": [name, keys, position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """
    Put the global random states back.

    :param state: What :func:`random_state` returned.

    Example:
    >>> from art_sensreg.training.resume import random_state, restore_random_state
    >>> before = random_state()
    >>> drawn = np.random.rand(), random.random(), torch.rand(1)
    >>> restore_random_state(before)
    >>> drawn == (np.random.rand(), random.random(), torch.rand(1))
    True
    """
    kind, words, numbers = state["python"]
    random.setstate((kind, tuple(words), numbers))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.asarray(keys), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0):
        for index, value in enumerate(state["cuda"]):
            torch.cuda.set_rng_state(value, index)
