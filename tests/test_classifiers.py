import inspect

import numpy as np
import pytest
import torch
from art.defences.postprocessor import Rounded
from art.defences.preprocessor import GaussianAugmentation, JpegCompression, SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import JacobianPenalty, RandomizedClassifier, SensitivityPenalty, SensRegClassifier

PENALTIES = (SensitivityPenalty(), JacobianPenalty())


def test_get_and_set_params(make_classifier):
    classifier = make_classifier(penalties=PENALTIES)
    params = classifier.get_params()
    assert params["penalties"] == PENALTIES
    assert set(PyTorchClassifier.estimator_params) < set(params)
    classifier.set_params(penalties=[SensitivityPenalty(sigma=0.5)])
    assert classifier.penalties == (SensitivityPenalty(sigma=0.5),)
    with pytest.raises(TypeError, match=r"`penalties` holds 3"):
        classifier.set_params(penalties=[3])
    classifier.set_params(**params)
    assert classifier.get_params()["penalties"] == PENALTIES


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.3, 0.5), None])
def test_every_float_type_in_float32_out(make_classifier, digits, dtype, preprocessing):
    classifier = make_classifier(preprocessing=preprocessing)
    x, y = digits.x_test[:7].astype(dtype), np.eye(10)[digits.y_test[:7]]
    assert classifier.predict(x).dtype == np.float32
    assert classifier.predict(x).shape == (7, 10)
    assert classifier.predict(x[:0]).shape == (0, 10)
    assert classifier.loss_gradient(x, y).dtype == np.float32
    assert classifier.class_gradient(x, label=3).dtype == np.float32
    assert classifier.class_gradient(x).shape == (7, 10, 1, 8, 8)
    assert classifier.compute_loss(x, y).shape == (7,)
    tensor = torch.from_numpy(digits.x_test[:7])
    gradient = classifier.loss_gradient(tensor, torch.from_numpy(y))
    assert isinstance(gradient, torch.Tensor)
    assert np.allclose(gradient.numpy(), classifier.loss_gradient(digits.x_test[:7], y))


def test_attacks_may_query_outside_the_range(make_classifier, digits):
    assert np.isfinite(make_classifier().predict(digits.x_test[:3] * 5 - 2)).all()


def test_predictions_and_gradients_are_arts(make_classifier, digits):
    ours, arts = make_classifier(), make_classifier(kind=PyTorchClassifier)
    x, y = digits.x_test[:20], np.eye(10, dtype=np.float32)[digits.y_test[:20]]
    assert np.array_equal(ours.predict(x), arts.predict(x))
    assert np.array_equal(ours.loss_gradient(x, y), arts.loss_gradient(x, y))
    assert np.array_equal(ours.class_gradient(x), arts.class_gradient(x))


@pytest.mark.parametrize(
    "defence",
    [
        SpatialSmoothing(window_size=3, channels_first=True),
        JpegCompression(clip_values=(0, 1), channels_first=True, apply_fit=True),
        GaussianAugmentation(sigma=0.1, augmentation=True, ratio=0.5, clip_values=(0, 1)),
    ],
    ids=lambda defence: type(defence).__name__,
)
def test_preprocessing_defences(make_classifier, digits, defence):
    rgb = isinstance(defence, JpegCompression)
    x = digits.x_train[:60].repeat(3, axis=1) if rgb else digits.x_train[:60]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].size, 16), nn.ReLU(), nn.Linear(16, 10))
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        x.shape[1:],
        10,
        optimizer=torch.optim.Adam(model.parameters(), 1e-2),
        clip_values=(0.0, 1.0),
        preprocessing_defences=defence,
        preprocessing=(0.5, 0.5),
        penalties=[SensitivityPenalty(weight=0.01), JacobianPenalty(weight=0.001)],
        device_type="cpu",
    )
    classifier.fit(x, digits.y_train[:60], nb_epochs=60, seed=0, validation_data=(x, digits.y_train[:60]))
    assert classifier.history[-1]["accuracy"] > 0.6
    assert classifier.predict(x).dtype == np.float32
    assert classifier.history[-1]["val_accuracy"] == pytest.approx(
        (classifier.predict(x).argmax(1) == digits.y_train[:60]).mean()
    )


def test_postprocessing_defences_still_run(make_classifier, digits):
    classifier = make_classifier(postprocessing_defences=Rounded(decimals=1))
    predictions = classifier.predict(digits.x_test[:5])
    assert np.allclose(predictions, predictions.round(1))


def test_float64_models_stay_float64(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        penalties=PENALTIES,
        device_type="cpu",
    )
    classifier.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1)
    assert classifier.predict(digits.x_test[:5]).dtype == np.float32


def test_another_loss(make_classifier, digits):
    class SquaredError(nn.MSELoss):
        def forward(self, logits, rows):
            return super().forward(logits, rows)

    classifier = make_classifier()
    classifier.set_params(loss=SquaredError())
    classifier.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1)
    assert classifier.history[-1]["base"] > 0


def test_another_model(make_classifier, digits):
    classifier, other = make_classifier(), make_classifier("cnn-small")
    classifier.set_params(model=other.model)
    assert np.array_equal(classifier.predict(digits.x_test[:5]), other.predict(digits.x_test[:5]))
    with pytest.raises(ValueError, match=r"`optimizer` of the classifier holds none"):
        classifier.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1)


def test_own_penalties_see_the_users_model_behind_a_standardisation(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        preprocessing=(0.5, 0.5),
        penalties=[lambda model, x, y: model[1].weight.pow(2).sum()],
        device_type="cpu",
    )
    classifier.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1)
    assert classifier.history[-1]["<lambda>"] > 0


@pytest.mark.parametrize("kind", [SensRegClassifier, RandomizedClassifier])
def test_the_constructor_has_arts_arguments(kind):
    """A new argument of ART's fails here: it has to be written out."""
    arts = inspect.signature(PyTorchClassifier.__init__).parameters
    ours = inspect.signature(kind.__init__).parameters
    assert [*ours][: len(arts)] == [*arts]
    assert all(ours[name].default == arts[name].default for name in arts)
    further = {name for name in ours if name not in arts}
    assert further == {"penalties"} | ({"samples", "average"} if kind is RandomizedClassifier else set())
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in further)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, ""),
        ({"penalties": []}, ", penalties=[]"),
        ({"penalties": PENALTIES}, f", penalties={list(PENALTIES)!r}"),
        ({"clip_values": (0, 255), "use_amp": False}, ", clip_values=(0.0, 255.0)"),
        ({"preprocessing": (0.5, 0.25)}, ", preprocessing=(0.5, 0.25)"),
        ({"preprocessing": None}, ", preprocessing=None"),
    ],
)
def test_repr_is_the_call_that_makes_it(arguments, text):
    model = nn.Sequential(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    made = SensRegClassifier(model, nn.CrossEntropyLoss(), (4,), 2, optimizer=optimizer, device_type="cpu", **arguments)
    begin = "SensRegClassifier(model=model, loss=CrossEntropyLoss(), input_shape=(4,), nb_classes=2, "
    assert repr(made).replace(", device_type='cpu'", "") == f"{begin}optimizer=optimizer{text})"
    names = {"model": model, "optimizer": optimizer, "CrossEntropyLoss": nn.CrossEntropyLoss}
    assert repr(eval(repr(made), globals(), names)) == repr(made)


def test_repr_of_arrays_random_models_and_no_optimizer():
    made = RandomizedClassifier(
        nn.Flatten(), None, (2, 3, 3), 18, preprocessing=(np.zeros((2, 1, 1)), np.ones((2, 1, 1))), samples=4
    )
    assert "optimizer" not in repr(made)
    assert "preprocessing=(array([[[0.]],\n\n" in repr(made)
    assert repr(made).endswith(", samples=4, average='logits')")
