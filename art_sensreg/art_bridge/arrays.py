"""The array interface of a classifier, for users and attacks: arrays of any kind in, float32 out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from art.utils import to_categorical
from torch import nn

from art_sensreg.art_bridge.checks import check_labels
from art_sensreg.art_bridge.classifier_arguments import check_inputs
from art_sensreg.art_bridge.dtypes import cast, model_dtype
from art_sensreg.art_bridge.inference import batched_logits, input_gradient, set_training
from art_sensreg.art_bridge.preprocessing import copies_per_image, is_identity, mean_of_copies
from art_sensreg.art_bridge.whole_model import ArtModelWrapper, WholeModel, whole
from art_sensreg.utils import as_array, as_numbers, check_count, check_differentiable, enable_grad, shown
from art_sensreg.utils.autograd import preserve_grad

# ART's metaclass would wrap `predict` again, to convert arrays that are already converted here.
if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object


class ArrayInterface(_Base):
    """
    Predictions, losses, gradients and activations of a classifier: a base class in front of ART's `PyTorchClassifier`.

    Example:
    >>> from art.estimators.classification import PyTorchClassifier
    >>> from art_sensreg.art_bridge.arrays import ArrayInterface
    >>> class Classifier(ArrayInterface, PyTorchClassifier):
    ...     pass
    >>> Classifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2).predict([[1, 2]])
    array([[1., 2.]], dtype=float32)
    """

    def _make_model_wrapper(self, model: nn.Module) -> ArtModelWrapper:
        return ArtModelWrapper(model.whole if isinstance(model, WholeModel) else model)

    @property
    def model(self) -> nn.Module:
        """
        The model; an `nn.Sequential` with a `forward` or hooks of its own as a `WholeModel`, for attacks that make a
        classifier of ART's of it, which would call its children in turn.
        """
        return whole(self._model._model)

    def _apply_preprocessing(self, x: Any, y: Any, fit: bool = False, no_grad: bool = True) -> tuple[Any, Any]:
        # Several attacks (HopSkipJump, Boundary, Carlini L0) query float64 images; numpy preprocessors return them.
        x = cast(x, self._model)
        if all(map(is_identity, self.preprocessing_operations)):
            return x, y
        x, y = super()._apply_preprocessing(x, y, fit=fit, no_grad=no_grad)
        return cast(x, self._model), y

    def predict(self, x: np.ndarray, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> np.ndarray:
        """
        Predict logits.

        :param x: Images `(n, *input_shape)` of any float type, inside or outside `clip_values`.
        :param batch_size: Images per forward pass.
        :param training_mode: Whether the model predicts in training mode.
        :param kwargs: Passed on to ART.
        :return: float32 array of shape `(n, nb_classes)`, after postprocessing defences.
        """
        check_count("batch_size", batch_size)
        x = self._images(x)
        if isinstance(x, torch.Tensor):
            x = as_array(x, "x")
        if len(x) == 0:
            return np.zeros((0, self.nb_classes), dtype=np.float32)
        set_training(self._model, training_mode)
        inputs, _ = self._apply_preprocessing(x, y=None, fit=False)
        logits = batched_logits(self._model, inputs, int(batch_size), self._device)
        predictions = np.asarray(self._apply_postprocessing(preds=logits, fit=False), dtype=np.float32)
        return (
            predictions if len(predictions) == len(x) else mean_of_copies(predictions, len(x), copies_per_image(self))
        )

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        """
        Compute the loss.

        :param x: Images `(n, *input_shape)`, numpy or torch.
        :param y: Class indices `(n,)`, or class probabilities `(n, nb_classes)`.
        :param reduction: `none` (one value per image), `mean` or `sum`.
        :param kwargs: Passed on to ART.
        :return: The loss, numpy or torch like `x`; with `none`, `(n,)`.
        """
        former = getattr(self._loss, "reduction", None)
        try:
            losses = super().compute_loss(self._images(x), check_inputs(y, "y"), reduction=reduction, **kwargs)
        finally:
            if former is not None:  # which ART puts back only if nothing is raised
                self._loss.reduction = former
        copies = copies_per_image(self)
        if copies == 1 or reduction == "mean":
            return losses
        return losses / copies if reduction == "sum" else losses.reshape(len(x), copies).mean(1)

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """
        Gradient of the loss with respect to the input; the `.grad` of the weights is left untouched.

        :param x: Images `(n, *input_shape)`, numpy or torch.
        :param y: Class probabilities `(n, nb_classes)`, one-hot or soft; or class indices `(n,)`.
        :param training_mode: Whether the model is in training mode.
        :param kwargs: Passed on to ART.
        :return: Gradients of the shape and kind (numpy float32, or torch) of `x`; zeros, and a warning in the log, if
            autograd finds no path from `x` to the loss.
        """
        if not torch.is_grad_enabled():
            check_differentiable(self.model, "model")
            with enable_grad():
                x = x.clone() if isinstance(x, torch.Tensor) else x
                return self.loss_gradient(x, y, training_mode, **kwargs)
        x = self._images(x)
        y = self._labels(y, len(x))
        if self.all_framework_preprocessing and x.dtype != object and not (self.is_rnn or self.use_amp):
            set_training(self._model, training_mode)
            try:
                return input_gradient(self, cast(x, self._model), y)
            except RuntimeError as error:
                check_differentiable(self.model, "model")
                # Re-entrant checkpoints differentiate with respect to all weights or nothing.
                if "torch.utils.checkpoint" not in str(error):
                    raise
        with preserve_grad(self.model):
            return self._float32(super().loss_gradient(cast(x, self._model), y, training_mode=training_mode, **kwargs))

    def class_gradient(
        self, x: np.ndarray, label: Any = None, training_mode: bool = False, **kwargs: Any
    ) -> np.ndarray:
        """
        Gradient of each class's logit with respect to the input.

        :param x: Images `(n, *input_shape)`.
        :param label: Class to differentiate, or one for each image `(n,)`, or None for all.
        :param training_mode: Whether the model is in training mode.
        :param kwargs: Passed on to ART.
        :return: float32 array of shape `(n, nb_classes or 1, *input_shape)`.
        """
        check_differentiable(self.model, "model")
        x = self._images(x)
        label = self._checked_classes(label, len(x))
        x = cast(x.detach().cpu().float().numpy() if isinstance(x, torch.Tensor) else x, self._model)
        with enable_grad(), preserve_grad(self.model):
            gradients = self._float32(super().class_gradient(x, label, training_mode=training_mode, **kwargs))
        # ART sums over the copies of an image.
        mean: np.ndarray = gradients / np.float32(copies_per_image(self))
        return mean

    def custom_loss_gradient(self, *args: Any, **kwargs: Any) -> Any:
        """See ART's; the `.grad` of the weights is left untouched."""
        check_differentiable(self.model, "model")
        with enable_grad(), preserve_grad(self.model):
            return super().custom_loss_gradient(*args, **kwargs)

    def _images(self, x: Any) -> Any:
        of_objects = getattr(x, "dtype", None) == np.dtype(object)
        if of_objects and not self.preprocessing_defences:
            raise TypeError(f"`x` has dtype object; expected real numbers of shape (n, *{self.input_shape}).")
        return check_inputs(x, shape=None if self.is_rnn or of_objects else self.input_shape)

    def _labels(self, y: Any, n: int) -> Any:
        """As many labels as images; class indices become one-hot, as ART expects for losses that take indices."""
        y = check_inputs(y, "y")
        classes = self.nb_classes
        widths = {1, max(classes, 2)}  # a model with one output takes either
        if y.ndim not in (1, 2) or len(y) != n or (y.ndim == 2 and y.shape[1] not in widths):
            raise ValueError(f"`y` has shape {tuple(y.shape)}; expected ({n}, {classes}) or class indices ({n},).")
        if isinstance(y, np.ndarray) and y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError(f"`y` has NaN or infinite values; expected {n} labels.")
        if y.ndim == 2 or not self._int_labels:
            return y
        indices = check_labels(y, classes, n)
        if isinstance(y, torch.Tensor):
            return torch.nn.functional.one_hot(torch.from_numpy(indices).to(y.device), classes).float()
        return to_categorical(indices, classes)

    def _checked_classes(self, label: Any, n: int) -> Any:
        """Check a class, or one per image; ART would count a negative one from the end."""
        if label is None:
            return None
        classes = as_numbers(label, "label")
        expected = f"a whole number from 0 to {self.nb_classes - 1}, or {n} of them"
        if classes.dtype.kind not in "iu" or classes.shape not in ((), (n,)):
            raise ValueError(f"`label` is {shown(label)}; expected {expected}.")
        if classes.size and (classes.min() < 0 or classes.max() >= self.nb_classes):
            raise ValueError(f"`label` has {classes.min()} to {classes.max()}; expected {expected}.")
        return classes if classes.ndim else int(classes)

    @staticmethod
    def _float32(values: Any) -> Any:
        return values if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float32)

    def get_activations(
        self, x: Any, layer: int | str | None = None, batch_size: int = 128, framework: bool = False
    ) -> Any:
        """
        Activations of one layer. ART's hook is removed afterwards: it would break `pickle` and `copy.deepcopy`.

        :param x: Images `(n, *input_shape)`.
        :param layer: Name or index of the layer.
        :param batch_size: Images per forward pass.
        :param framework: Whether a torch tensor is returned.
        :return: Activations `(n, ...)`.
        :raises ValueError: If there is no such layer, or it does not run in a forward pass.
        """
        count = len(self._layer_names)
        known = layer in self._layer_names if isinstance(layer, str) else _is_index(layer, count)
        if not known:
            raise ValueError(
                f"`layer` is {layer!r}; expected one of {', '.join(self._layer_names)}, or an index below {count}."
            )
        before = [(module, set(module._forward_hooks)) for module in self.model.modules()]
        # numpy has no bfloat16.
        as_tensor = framework or model_dtype(self.model) is torch.bfloat16
        try:
            output = super().get_activations(self._images(x), layer=layer, batch_size=batch_size, framework=as_tensor)
            return output if framework or not as_tensor else output.detach().float().cpu().numpy()
        except KeyError as error:
            raise ValueError(
                f"`layer` is {error.args[0]!r}, which does not run in a forward pass of the model."
            ) from error
        finally:
            self.__dict__.pop("_features", None)
            for module, hooks in before:
                for hook in set(module._forward_hooks) - hooks:
                    del module._forward_hooks[hook]


def _is_index(value: Any, count: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and -count <= int(value) < count
