"""One interface to the loaders of other libraries: ART's data generators and torch's `DataLoader`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from art.data_generators import DataGenerator, NumpyDataGenerator, PyTorchDataGenerator
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, Subset

from art_sensreg.training.checkpoint.bytecode import globals_used, members
from art_sensreg.training.checkpoint.describe import Describer
from art_sensreg.utils.model_rng import preserve_rng_state

logger = logging.getLogger(__name__)

BatchAdapter = Callable[[Any], tuple[Any, ...]]

# What a batch must be, one and several.
_PAIR = "a pair of images and labels", "pairs of images and labels"
_KEEPS = "(the adversary keeps a perturbation of each image from epoch to epoch)"
_TRIPLE = tuple(f"{form} of images, labels and indices of the images {_KEEPS}" for form in ("a triple", "triples"))


@dataclass
class LoaderSource:
    """
    A loader of `length` batches an epoch, whose epochs can be started; `restarts` if each epoch is a new one, whatever
    was drawn before. An adapter turns a batch into images and labels (None: batches are such pairs); `indexed` if a
    batch must say which images it holds: then they are triples; `index_optional` if it may, and the indices are
    left out. Messages use its name, and the argument that it was given as.
    """

    loader: Any
    length: int
    name: str
    restarts: bool
    adapter: BatchAdapter | None = None
    argument: str = "generator"
    indexed: bool = False
    index_optional: bool = False

    def epoch(self) -> Iterator[tuple[Any, ...]]:
        """Draw the batches of an epoch: images and labels and, if indexed, the indices of the images."""
        if isinstance(self.loader, (NumpyDataGenerator, DataLoader)):
            drawn = iter(self.loader)
        else:
            drawn = islice(iter(self.loader.get_batch, None), self.length)
        for batch in drawn:
            yield self._parts(batch)

    def generators(self) -> list[torch.Generator]:
        """The loader's own random generators, which determine its order."""
        parts = [self.loader, *(getattr(self.loader, name, None) for name in ("sampler", "batch_sampler"))]
        parts.append(getattr(parts[-1], "sampler", None))
        found = [getattr(part, "generator", None) for part in parts]
        return list({id(part): part for part in found if isinstance(part, torch.Generator)}.values())

    def _parts(self, batch: Any) -> tuple[Any, ...]:
        one, several = _TRIPLE if self.indexed else _PAIR
        if self.adapter is None:
            if not self._fits(batch):
                raise TypeError(
                    f"`{self.argument}` yields {_kind(batch)}; expected {several}, or a "
                    f"`batch_adapter`: a function that makes {one} of each batch."
                )
            return tuple(batch)[: 2 + self.indexed]
        try:
            made = self.adapter(batch)
        except Exception as error:
            raise ValueError(
                f"`batch_adapter` failed on a batch of `{self.argument}`, {_kind(batch)}: {type(error).__name__}: "
                f"{error}; expected a function that makes of each batch {one}."
            ) from error
        if not self._fits(made):
            raise TypeError(f"`batch_adapter` returns {_kind(made)}; expected {one}.")
        return tuple(made)[: 2 + self.indexed]

    def _fits(self, batch: Any) -> bool:
        sizes = (2, 3) if self.index_optional else (2 + self.indexed,)
        return isinstance(batch, (tuple, list)) and len(batch) in sizes


def loader_source(loader: Any, adapter: Any = None, argument: str = "generator") -> LoaderSource:
    """
    Check one of ART's data generators with a known `size`, or a torch `DataLoader`.

    If a `DataLoader` does not know the number of its batches, they are counted once before training: its data set is an
    `IterableDataset` without a length, or is divided among several workers.
    """
    if adapter is not None and (isinstance(adapter, type) or not callable(adapter)):
        raise TypeError(f"`batch_adapter` is {adapter!r}; expected a function from a batch to images and labels.")
    if isinstance(loader, PyTorchDataGenerator):
        return loader_source(loader.iterator, adapter, argument)  # `get_batch` runs on into the next epoch
    if isinstance(loader, NumpyDataGenerator):
        length, name, restarts = loader.batches_per_epoch, f"NumpyDataGenerator of {loader.size} images", True
    elif isinstance(loader, DataGenerator):
        if loader.size is None:
            raise ValueError(f"`{argument}` has no size; expected one that knows how many images an epoch has.")
        length = math.ceil(loader.size / loader.batch_size)
        name, restarts = f"{type(loader).__name__} of {loader.size} images", False
    elif isinstance(loader, DataLoader):
        length = _length(loader, argument)
        name, restarts = f"DataLoader of {length} batches", True
    else:
        raise TypeError(
            f"`{argument}` is {type(loader).__name__}; expected an art.data_generators.DataGenerator or a torch "
            "DataLoader."
        )
    if length < 1:
        raise ValueError(f"`{argument}` is a {name} with no batch in an epoch; expected at least one.")
    return LoaderSource(loader, length, name, restarts, adapter, argument)


def is_loader(data: Any) -> bool:
    """Whether something is one of ART's data generators or a torch `DataLoader`."""
    return isinstance(data, (DataGenerator, DataLoader))


def number_of_indices(loader: Any) -> int:
    """How many images the indices of a loader run over: of a `Subset`, all images that it was taken from."""
    found, dataset = loader, getattr(loader, "dataset", None)
    while isinstance(dataset, Subset):
        found = dataset = dataset.dataset
    return number_of_images(found)


def number_of_images(data: Any) -> int:
    """The number of images of an array, one of ART's generators (`size`) or a torch loader (`dataset`)."""
    if isinstance(data, DataGenerator):
        return int(data.size)
    try:
        return max(1, len(getattr(data, "dataset", data)))  # none at all is refused with the other arguments
    except TypeError as error:
        if isinstance(size := getattr(data, "size", None), int) and size > 0:
            return size  # made like one of ART's generators
        raise TypeError(
            f"The training data are {type(data).__name__}, whose number of images is not known; expected an array, or "
            "a loader of a data set with a length (the weight of BayesianKL is one over it; a carried adversary keeps "
            "a perturbation of each)."
        ) from error


def describe_source(source: LoaderSource, describe: Describer) -> dict[str, str]:
    """
    Describe a loader by all of its data and settings that are visible from outside.

    Arrays and tensors in its data set are read in full; of files and streams only the names are known.
    """
    loader = source.loader
    texts = {"content": source.name, **dict(describe("batch_adapter", source.adapter))}
    parts = vars(loader)
    if isinstance(loader, DataLoader):
        named = ("batch_size", "drop_last", "dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn")
        parts = {name: getattr(loader, name) for name in named}
        if type(loader.batch_sampler) is BatchSampler:
            del parts["batch_sampler"]  # what the loader made of the others
        if isinstance(loader.dataset, IterableDataset):
            parts["num_workers"] = loader.num_workers  # each has a stream of its own
    for name, value in parts.items():
        texts.update(describe(name, value))
    return texts


def _length(loader: DataLoader[Any], argument: str) -> int:
    if isinstance(loader.sampler, DistributedSampler):
        raise ValueError(
            f"`{argument}` has a DistributedSampler, which repeats images to even out its shards; expected a loader "
            "over all the data: its batches are divided here."
        )
    stream = isinstance(loader.dataset, IterableDataset)
    if stream and loader.num_workers > 1:
        _check_workers(loader, argument)
    try:
        length = len(loader)
    except TypeError as error:
        if not stream:
            raise ValueError(f"`{argument}` is a DataLoader of unknown length; expected one with a length.") from error
        length = 0
    if stream and (length == 0 or loader.num_workers > 1):
        logger.warning("`%s` does not know how many batches it has: they are counted before training.", argument)
        with preserve_rng_state(seed=0):
            length = 0
            for length, _ in enumerate(loader, start=1):
                if length % 1000 == 0:
                    logger.warning("`%s` has at least %d batches; expected a finite stream.", argument, length)
    return length


def _check_workers(loader: DataLoader[Any], argument: str) -> None:
    """Each worker has a copy of the stream: unless they divide it, every example comes once per worker."""
    remedy = (
        "expected num_workers of at most 1, or a data set that gives each worker its own shard "
        "(torch.utils.data.get_worker_info)"
    )
    with preserve_rng_state(seed=0):
        first, second, *_ = [*islice(iter(loader), 2), None, None]
    if first is not None and second is not None and _equal(first, second):
        raise ValueError(
            f"`{argument}` has an IterableDataset and {loader.num_workers} workers that all give the same data; "
            f"{remedy}."
        )
    functions = members(type(loader.dataset)).values()
    names = {name for part in functions if (code := getattr(part, "__code__", None)) for name in code.co_names}
    names |= {name for part in functions if hasattr(part, "__code__") for name in globals_used(part.__code__)}
    if loader.worker_init_fn is None and functions and "get_worker_info" not in names:
        logger.warning(
            "`%s` has an IterableDataset and %d workers, and apparently nothing divides it among them: every example "
            "may come once per worker; %s.",
            argument, loader.num_workers, remedy,
        )  # fmt: skip


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return isinstance(second, dict) and _equal(list(first.values()), list(second.values()))
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(_equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def _kind(thing: Any) -> str:
    if isinstance(thing, dict):
        return f"a dict of {', '.join(map(str, thing))}"
    if isinstance(thing, (tuple, list)):
        return f"a {type(thing).__name__} of {len(thing)}"
    return type(thing).__name__
