"""The boundary between numpy and ART on one side and torch on the other: from classifier and arrays to training."""

from art_sensreg.art_bridge.arrays import ArrayInterface
from art_sensreg.art_bridge.checks import check_images, check_labels, class_indices, clip_bounds
from art_sensreg.art_bridge.classifier_arguments import check_arguments, check_clip_values, check_inputs
from art_sensreg.art_bridge.data import Reader
from art_sensreg.art_bridge.dtypes import model_dtype, numpy_dtype
from art_sensreg.art_bridge.fit import FitOptions, fit_arrays, fit_batches, in_input_units, with_given
from art_sensreg.art_bridge.loaders import BatchAdapter, number_of_images
from art_sensreg.art_bridge.placement import place
from art_sensreg.art_bridge.prepare import is_own, layers_of, prepare_training, trained_parameters
from art_sensreg.art_bridge.preprocessing import (
    PreprocessedModel,
    as_given,
    copies_per_image,
    mean_of_copies,
    numbers_or_arrays,
    standardised,
)
from art_sensreg.art_bridge.train_interface import TrainInterface
from art_sensreg.art_bridge.weights import clone_optimizer, load_weights, save_weights, weights_file
from art_sensreg.art_bridge.whole_model import keep_whole, predicting_model

__all__ = [
    "ArrayInterface",
    "BatchAdapter",
    "FitOptions",
    "PreprocessedModel",
    "Reader",
    "TrainInterface",
    "as_given",
    "check_arguments",
    "check_clip_values",
    "check_images",
    "check_inputs",
    "check_labels",
    "class_indices",
    "clip_bounds",
    "clone_optimizer",
    "copies_per_image",
    "fit_arrays",
    "fit_batches",
    "in_input_units",
    "is_own",
    "keep_whole",
    "layers_of",
    "load_weights",
    "mean_of_copies",
    "model_dtype",
    "number_of_images",
    "numbers_or_arrays",
    "numpy_dtype",
    "place",
    "predicting_model",
    "prepare_training",
    "save_weights",
    "standardised",
    "trained_parameters",
    "weights_file",
    "with_given",
]
