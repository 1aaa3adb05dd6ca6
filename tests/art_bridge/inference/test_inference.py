"""Predictions and gradients of `SensRegClassifier`, by the quick way or not, are those of ART's `PyTorchClassifier`."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.art_bridge.inference import batched_logits
from tests.art_bridge.inference.twins import MODELS, PREPROCESSING, SHAPE, classifiers, images_and_labels, mlp


@pytest.fixture
def x():
    return images_and_labels()[0]


@pytest.fixture
def y():
    return images_and_labels()[1]


def same_numbers(ours, arts, x, y, tolerance=1e-6, batch_size=4):
    """Predictions and gradients, in evaluation and training mode, and all that must not have changed."""
    before = x.copy()
    kept = [torch.full_like(parameter, 2.0) for parameter in ours.model.parameters()]
    for parameter, gradient in zip(ours.model.parameters(), kept, strict=True):
        if parameter.requires_grad:
            parameter.grad = gradient
    for training_mode in (False, True):
        results = []
        for classifier in (ours, arts):
            torch.manual_seed(1)
            numbers = [classifier.predict(x, batch_size=batch_size, training_mode=training_mode)]
            numbers.append(classifier.loss_gradient(x.copy(), y, training_mode=training_mode))
            results.append((numbers, torch.rand(1).item(), classifier.model.training))
        for mine, theirs in zip(results[0][0], results[1][0], strict=True):
            assert mine.shape == theirs.shape
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)
        assert results[0][1:] == results[1][1:]  # the same random numbers drawn, the same mode left behind
    assert np.array_equal(x, before)
    for parameter, gradient in zip(ours.model.parameters(), kept, strict=True):
        assert parameter.grad is (gradient if parameter.requires_grad else None)
        assert torch.equal(gradient, torch.full_like(gradient, 2.0))
    for mine, theirs in zip(ours.model.buffers(), arts.model.buffers(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", MODELS)
def test_models(name, x, y):
    torch.manual_seed(0)
    kind = {"float64": np.float64, "float16": np.float16}.get(name, np.float32)
    ours, arts = classifiers(MODELS[name]())
    same_numbers(ours, arts, x.astype(kind), y, tolerance=1e-3 if name == "float16" else 1e-6)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_preprocessing_and_postprocessing(name, x, y):
    model = mlp(last=[nn.Softmax(dim=1)]) if name == "reverse-sigmoid" else mlp()
    same_numbers(*classifiers(model, **PREPROCESSING[name]), x, y)


@pytest.mark.parametrize("name", ["standardisation", "standardisation-by-channel", "torch-defence"])
@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_preprocessing_in_other_types(name, kind, x, y):
    model = mlp().to(torch.from_numpy(np.empty(0, kind)).dtype)
    ours, arts = classifiers(model, **PREPROCESSING[name])
    if kind is np.float16 and name == "standardisation-by-channel":
        arts._apply_preprocessing = ours._apply_preprocessing  # ART's gives the model float32, which it refuses
    same_numbers(ours, arts, x.astype(kind), y, tolerance=1e-3 if kind is np.float16 else 1e-6)


class SquaredError(nn.MSELoss):
    """A loss of another class than those that ART knows."""


LOSSES = {
    "cross-entropy-sum": nn.CrossEntropyLoss(reduction="sum"),
    "cross-entropy-smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "cross-entropy-weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
    "nll": nn.NLLLoss(),
    "multi-margin": nn.MultiMarginLoss(reduction="sum"),
    "squared": SquaredError(),
    "bce": nn.BCELoss(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, x, y):
    last = {"nll": [nn.LogSoftmax(dim=1)], "bce": [nn.Sigmoid()]}.get(name, [])
    if name == "bce":
        same_numbers(*classifiers(mlp(1, [*last, nn.Flatten(0)]), LOSSES[name], 2), x, y[:, :2].copy())
    else:
        same_numbers(*classifiers(mlp(last=last), LOSSES[name]), x, y)


def test_two_classes_with_a_single_logit(x, y):
    labels = y.argmax(1).clip(max=1)[:, None].astype(np.float32)
    same_numbers(*classifiers(mlp(1), nn.BCEWithLogitsLoss(), 2), x, labels)


def test_losses_that_are_not_scalar_are_refused_as_by_art(x, y):
    for classifier in classifiers(mlp(), nn.CrossEntropyLoss(reduction="none")):
        with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
            classifier.loss_gradient(x, y)


LABELS = {
    "float64": lambda y: y.astype(np.float64),
    "int": lambda y: y.astype(np.int64),
    "list": lambda y: y.tolist(),
    "soft": lambda y: (0.8 * y + np.float32(0.2 / 3)).astype(np.float32),
    "torch": torch.from_numpy,
    "torch-soft": lambda y: torch.from_numpy(0.5 * y) + 1 / 6,
    "columns-first": np.asfortranarray,
    "several": lambda y: np.ones_like(y),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(name, x, y):
    same_numbers(*classifiers(mlp()), x, LABELS[name](y))


def test_labels_that_cannot_be_written_to(x, y):
    ours, arts = classifiers(mlp())
    y.flags.writeable = x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(ours.loss_gradient(x, y), arts.loss_gradient(x.copy(), y.copy()))
        assert ours.predict(x).shape == (7, 3)


@pytest.mark.parametrize(
    "name", ["mlp", "in-place-first", "in-place-on-the-input", "cnn-small-batch-norm", "frozen", "float64"]
)
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.3, 0.5)])
def test_tensors(name, preprocessing, x, y):
    torch.manual_seed(0)
    ours, arts = classifiers(MODELS[name](), preprocessing=preprocessing)
    tensor = torch.from_numpy(x.astype(np.float64 if name == "float64" else np.float32))
    tensor.requires_grad_(True)
    before = tensor.detach().clone()
    for labels in (y, torch.from_numpy(y)):
        mine, theirs = (classifier.loss_gradient(tensor, labels) for classifier in (ours, arts))
        assert isinstance(mine, torch.Tensor)
        assert not mine.requires_grad
        assert mine.dtype == theirs.dtype
        assert mine.device == theirs.device
        assert torch.allclose(mine, theirs, atol=1e-6)
    assert tensor.grad is None
    assert torch.equal(tensor.detach(), before)
    with torch.inference_mode():
        frozen = before.clone()
    assert torch.allclose(ours.loss_gradient(frozen, y), mine, atol=1e-6)


ARRAYS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(">f4"),
    "long-double": lambda x: x.astype(np.longdouble),
    "uint8": lambda x: (255 * x).astype(np.uint8),
    "int64": lambda x: (255 * x).astype(np.int64),
    "reversed": lambda x: x[::-1],
    "strided": lambda x: x[::2],
    "channels-last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "unaligned": lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, x, y):
    ours, arts = classifiers(mlp())
    array = ARRAYS[name](x)
    before, plain, labels = array.copy(), np.ascontiguousarray(array, dtype=np.float32), y[: len(array)]
    np.testing.assert_allclose(ours.predict(array), arts.predict(plain), atol=1e-5)
    np.testing.assert_allclose(ours.loss_gradient(array, labels), arts.loss_gradient(plain, labels), atol=1e-5)
    assert np.array_equal(array, before)


def test_lists_and_empty_arrays_are_taken(x, y):
    ours, arts = classifiers(mlp())
    assert np.allclose(ours.predict(x.tolist()), arts.predict(x))
    assert np.allclose(ours.predict(x=x.tolist()), arts.predict(x))
    assert ours.predict(x[:0]).shape == (0, 3)
    assert ours.loss_gradient(x[:0], y[:0]).shape == (0, *SHAPE)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batch_sizes(batch_size, x, y):
    same_numbers(*classifiers(mlp()), x, y, batch_size=batch_size)


@pytest.mark.parametrize(("batch_size", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_batch_sizes_that_are_refused(batch_size, error, x):
    with pytest.raises(error, match=f"`batch_size` is {batch_size}; expected a whole number of at least 1"):
        SensRegClassifier(mlp(), nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu").predict(x, batch_size=batch_size)


def test_a_model_may_return_one_number_per_image(x):
    ours, arts = classifiers(mlp(1, [nn.Flatten(0)]), nn.BCEWithLogitsLoss(), 2)
    assert ours.predict(x, batch_size=3).shape == arts.predict(x, batch_size=3).shape == (7, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mlp", "cnn-small-batch-norm", "in-place-first", "recurrent", "float64"])
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.3, 0.5)])
def test_on_a_gpu(name, preprocessing, x, y):
    torch.manual_seed(0)
    ours, arts = classifiers(MODELS[name](), preprocessing=preprocessing, device_type="gpu")
    assert ours.device.type == "cuda"
    same_numbers(ours, arts, x.astype(np.float64 if name == "float64" else np.float32), y, tolerance=1e-5)
    tensor = torch.from_numpy(x).to(ours.device, torch.float64 if name == "float64" else torch.float32)
    gradient = ours.loss_gradient(tensor, torch.from_numpy(y).to(ours.device))
    assert gradient.device == tensor.device
    assert np.allclose(gradient.cpu().numpy(), ours.loss_gradient(x, y), atol=1e-5)


def test_the_model_sees_transposed_images_as_contiguous_ones():
    """Convolutions round others differently."""
    transposed = np.zeros((4, 8, 8, 1), dtype=np.float32).transpose(0, 3, 1, 2)
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x.stride())
            return [x.flatten(1)]

    batched_logits(Watching(), transposed, 128, torch.device("cpu"))
    assert seen == [(64, 64, 8, 1)]
