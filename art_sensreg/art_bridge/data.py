"""Training and validation data as given by users: checked, preprocessed and converted to tensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch.nn.modules.batchnorm import _BatchNorm

from art_sensreg.art_bridge.checks import check_images, check_indices, check_labels, clip_bounds, is_mapped
from art_sensreg.art_bridge.dtypes import model_dtype, numpy_dtype
from art_sensreg.art_bridge.labels import Targets
from art_sensreg.art_bridge.loaders import LoaderSource, is_loader, loader_source, number_of_indices
from art_sensreg.art_bridge.preprocessing import Preprocessing
from art_sensreg.training.batches import (
    BatchForm,
    BatchSizes,
    HeldOut,
    HeldOutLoader,
    HeldOutTensors,
    LoaderBatches,
    TensorBatches,
)
from art_sensreg.training.config import TrainingConfig
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.rng import derive_seed

logger = logging.getLogger(__name__)


class Reader:
    """
    Reads data for one classifier and one run.

    :param in_units: The arguments of the run that are in the unit of the images (see `Preprocessing.apply`).
    :param indexed: Whether batches of a loader must say which images they hold.
    """

    def __init__(
        self, classifier: PyTorchClassifier, config: TrainingConfig, in_units: Sequence[str] = (), indexed: bool = False
    ) -> None:
        self.classifier, self.config, self.in_units, self._indexed = classifier, config, in_units, indexed
        self._targets = Targets(classifier, config.batch_size)

    def check(self, x: Any, y: Any, prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Images in the model's dtype, labels as indices or probabilities; `prefix` precedes `x`, `y` in errors."""
        classifier, dtype = self.classifier, numpy_dtype(self.classifier.model)
        tolerance = self.config.clip_tolerance
        images = check_images(x, classifier.input_shape, classifier.clip_values, f"{prefix}x", dtype, tolerance)
        return images, check_labels(y, classifier.nb_classes, len(images), f"{prefix}y")

    def arrays(self, images: np.ndarray, labels: np.ndarray, least: int = 1) -> TensorBatches:
        """Shuffled batches of checked arrays, with at least `least` images where BatchNorm needs several."""
        classifier = self.classifier
        images, labels = self._preprocessed(images, labels)
        x = self._as_tensor(images)
        config = self.config
        least = least if self.has_batch_norm else 1
        sizes = BatchSizes(config.batch_size, config.drop_last, least, config.accumulate)
        form = BatchForm(
            device=classifier.device,
            dtype=model_dtype(classifier.model),
            encode=self._targets.encode,
            clip=self._clip(images),
        )
        return TensorBatches(x, self._stored(x[:2], labels), sizes, form)

    def loader(self, source: LoaderSource) -> LoaderBatches:
        """Batches of a loader, each checked as it arrives."""
        count = number_of_indices(source.loader) if self._indexed else None
        source = replace(source, indexed=self._indexed)
        return LoaderBatches(
            lambda: self._drawn(source, fit=True),
            source.length,
            source.restarts,
            self.classifier.device,
            self.config.accumulate,
            source.generators(),
            count,
        )

    def held_out(self, data: Any, adapter: Any = None) -> HeldOut | None:
        """A pair of images and labels, or a loader, for scoring; the first batch of a loader is checked immediately."""
        if data is None:
            return None
        prefix = "validation_data: "
        if is_loader(data):
            # A loader of the same kind of data set, or the adapter, may yield their indices here too.
            source = replace(loader_source(data, adapter, "validation_data"), index_optional=self._indexed)
            found = HeldOutLoader(lambda: self._drawn(source, fit=False, prefix=prefix), source.length, source)
            found.check()
            return found
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(
                f"`validation_data` is {type(data).__name__}; expected a pair (x, y), an ART data generator or a torch "
                "DataLoader."
            )
        x, y = data
        images, labels = self.check(x, y, prefix)
        images, labels = self._preprocessed(images, labels, fit=False)
        inputs = self._as_tensor(images).to(model_dtype(self.classifier.model))
        targets = self._stored(inputs[:2], labels).to(inputs.device)
        return HeldOutTensors(inputs, targets, self._targets.encode, self._clip(images))

    @property
    def has_batch_norm(self) -> bool:
        """Whether the model has layers that cannot normalise a single image."""
        return any(isinstance(module, _BatchNorm) for module in self.classifier.model.modules())

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        """Determined once the classifier is on its device."""
        return Preprocessing.of(self.classifier)

    def _preprocessed(self, x: np.ndarray, y: np.ndarray, fit: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The preprocessed data; random preprocessors draw from the seed alone, so that a run can resume."""
        if self.config.seed is None:
            return self._applied(x, y, fit)
        with preserve_rng_state(seed=derive_seed(self.config.seed, "preprocessing") % 2**32):
            return self._applied(x, y, fit)

    def _applied(self, x: np.ndarray, y: np.ndarray, fit: bool) -> tuple[np.ndarray, np.ndarray]:
        in_units = list(self.in_units)
        if not fit:  # scored, and attacked, but neither augmented nor is any penalty measured
            in_units = [name for name in in_units if name not in ("`penalties`", "`augmentation`")]
            in_units += ["`validation_attack`"] if self.config.validation_attack is not None else []
        return self._preprocessing.apply(x, y, fit, in_units)

    def _drawn(self, source: LoaderSource, fit: bool, prefix: str = "") -> Iterator[Any]:
        """The batches of an epoch, in the host's memory."""
        for x, y, *indices in source.epoch():
            images, labels = self.check(x, y, prefix)
            if fit and len(images) == 1 and self.has_batch_norm:
                logger.warning("A batch of a single image is left out: BatchNorm cannot normalise it.")
                continue
            images, labels = self._applied(images, labels, fit)
            inputs = torch.from_numpy(images).to(model_dtype(self.classifier.model))
            targets = self._targets.encode(self._stored(inputs[:2], labels))
            places = [check_indices(given, len(images), number_of_indices(source.loader)) for given in indices if fit]
            yield inputs, targets, *places

    def _stored(self, x: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        """Labels as a tensor; on the first call, some images show which form the loss accepts."""
        classifier = self.classifier
        self._targets.decide(
            self._preprocessing.trained_model(), x.to(classifier.device, model_dtype(classifier.model))
        )
        return self._targets.store(labels)

    def _clip(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The bounds to which batches of a memory-mapped array are clipped."""
        clip_values = self.classifier.clip_values
        if not self.config.clip_tolerance or clip_values is None or not is_mapped(images):
            return None
        low, high = clip_bounds(clip_values, self.classifier.input_shape)
        return torch.as_tensor(low), torch.as_tensor(high)

    def _as_tensor(self, images: np.ndarray) -> torch.Tensor:
        """Move the data to the model's device if they fit in half of its free memory, else leave them."""
        with warnings.catch_warnings():
            # Arrays mapped from a file may be read-only. Nothing writes into the tensor.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(images)
        device = self.classifier.device
        if device.type == "cuda" and 2 * tensor.nbytes > torch.cuda.mem_get_info(device)[0]:
            return tensor
        return tensor.to(device)
