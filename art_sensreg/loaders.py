"""Loaders of other libraries as one thing: ART's data generators and torch's `DataLoader`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from art.data_generators import DataGenerator, NumpyDataGenerator, PyTorchDataGenerator
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from art_sensreg.training.describe import Describer


@dataclass
class LoaderSource:
    """
    A loader whose epochs can be started.

    :param loader: ART data generator or torch `DataLoader`.
    :param length: Batches of an epoch.
    :param name: A short description.
    :param restarts: Whether each epoch is a new one, whatever was drawn before.
    """

    loader: Any
    length: int
    name: str
    restarts: bool

    def epoch(self) -> Iterator[tuple[Any, Any]]:
        """Draw the batches of an epoch: pairs of images and labels."""
        if isinstance(self.loader, NumpyDataGenerator):
            yield from self.loader
        elif isinstance(self.loader, DataLoader):
            for batch in self.loader:
                if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                    raise TypeError(f"`generator` yields {type(batch).__name__}; expected pairs of images and labels.")
                yield batch[0], batch[1]
        else:
            yield from islice(iter(self.loader.get_batch, None), self.length)


def loader_source(loader: Any) -> LoaderSource:
    """
    Check a loader.

    :param loader: ART data generator with a known `size`, or a torch `DataLoader` with a known length.
    :return: The same with its length.
    :raises TypeError: If it is something else.
    :raises ValueError: If its length is not known, or it deals out parts of the data itself.

    Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from art_sensreg.loaders import loader_source
    >>> loader_source(DataLoader(TensorDataset(torch.rand(5, 2), torch.zeros(5)), batch_size=2)).length
    3
    """
    if isinstance(loader, PyTorchDataGenerator):
        return loader_source(loader.iterator)  # ART's own `get_batch` runs on into the next epoch
    if isinstance(loader, NumpyDataGenerator):
        name = f"NumpyDataGenerator of {loader.size} images"
        return _known(LoaderSource(loader, loader.batches_per_epoch, name, restarts=True))
    if isinstance(loader, DataGenerator):
        if loader.size is None:
            raise ValueError("`generator` has no size; expected one that knows how many images an epoch has.")
        length = math.ceil(loader.size / loader.batch_size)
        return _known(LoaderSource(loader, length, f"{type(loader).__name__} of {loader.size} images", restarts=False))
    if isinstance(loader, DataLoader):
        if isinstance(loader.sampler, DistributedSampler):
            raise ValueError(
                "`generator` has a DistributedSampler, which repeats images to fill its parts up; expected the whole "
                "loader: its batches are dealt out here."
            )
        try:
            length = len(loader)
        except TypeError as error:
            raise ValueError("`generator` is a DataLoader of unknown length; expected one with a length.") from error
        return _known(LoaderSource(loader, length, f"DataLoader of {length} batches", restarts=True))
    raise TypeError(
        f"`generator` is {type(loader).__name__}; expected an art.data_generators.DataGenerator or a torch DataLoader."
    )


def describe_source(source: LoaderSource, describe: Describer) -> dict[str, str]:
    """
    Tell a loader from others by all of its data and settings that can be seen from outside.

    Arrays and tensors that its data set holds are read whole; of files and streams their names are all that is known.

    :param source: The loader.
    :param describe: What describes objects.
    :return: Names and texts.

    Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from art_sensreg.loaders import describe_source, loader_source
    >>> loader = DataLoader(TensorDataset(torch.arange(5)), batch_size=2, shuffle=True)
    >>> sorted(describe_source(loader_source(loader), Describer()))[:5]
    ['batch_size', 'collate_fn', 'content', 'dataset', 'dataset.tensors']
    """
    loader = source.loader
    texts = {"content": source.name}
    parts = vars(loader)
    if isinstance(loader, DataLoader):
        named = ("batch_size", "drop_last", "dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn")
        parts = {name: getattr(loader, name) for name in named}
        if type(loader.batch_sampler) is BatchSampler:
            del parts["batch_sampler"]  # what the loader made of the others
    for name, value in parts.items():
        texts.update(describe(name, value))
    return texts


def _known(source: LoaderSource) -> LoaderSource:
    if source.length < 1:
        raise ValueError(f"`generator` is a {source.name} with no batch in an epoch; expected at least one.")
    return source
