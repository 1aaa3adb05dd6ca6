"""Sources of batches for training and validation: tensors in memory, memory-mapped arrays, and loaders."""

from art_sensreg.training.batches.augmentation import Augmentation, Transform
from art_sensreg.training.batches.base import Batch, Batches, GlobalBatch, clipped, to_device
from art_sensreg.training.batches.held_out import HeldOut, HeldOutLoader, HeldOutTensors
from art_sensreg.training.batches.loader import LoaderBatches
from art_sensreg.training.batches.tensors import BatchForm, BatchSizes, TensorBatches

__all__ = [
    "Augmentation",
    "Batch",
    "BatchForm",
    "BatchSizes",
    "Batches",
    "GlobalBatch",
    "HeldOut",
    "HeldOutLoader",
    "HeldOutTensors",
    "LoaderBatches",
    "TensorBatches",
    "Transform",
    "clipped",
    "to_device",
]
