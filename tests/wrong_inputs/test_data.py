"""Images and labels that cannot be ones, given to everything that takes some: one clear error for each, none taken."""

import functools

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from art_sensreg import (
    FisherRaoPenalty,
    GradientDiversityPenalty,
    JacobianPenalty,
    RandomizedClassifier,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    audit,
    randomize,
)
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
)
from art_sensreg.interpret import ExplanationConfig, deletion_area, explain, input_gradient, insertion_area
from tests.conftest import same_weights, weights_of
from tests.wrong_inputs.kinds import none_taken

N, C, SHAPE = 12, 4, (1, 4, 4)
RNG = np.random.default_rng(0)
X = RNG.random((N, *SHAPE)).astype(np.float32)
Y = np.arange(N) % C


def changed(array, value, kind=None):
    array = array.astype(kind or array.dtype)
    array.flat[5] = value
    return array


def masked(array):
    return np.ma.masked_array(array, mask=np.arange(array.size).reshape(array.shape) == 5)


class Refuses:
    """An array of a device that numpy cannot read."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("no host memory")


class Breaks:
    """A list by its length only."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        raise RuntimeError("nothing here")


class Frame:
    """A table of mixed columns, as those of pandas answer numpy."""

    def __array__(self, dtype=None, copy=None):
        return X.astype(object)


# Tensors that no dense array of numbers can be made of.
NO_TENSOR = {
    "sparse": torch.from_numpy(X).to_sparse(), "meta": torch.zeros(X.shape, device="meta"),
    "nested": torch.nested.nested_tensor([torch.zeros(*SHAPE)] * N, layout=torch.jagged),
    "complex tensor": torch.zeros(X.shape, dtype=torch.complex64),
    "float8": torch.zeros(X.shape).to(torch.float8_e4m3fn),
}  # fmt: skip
NO_ARRAY = {
    **NO_TENSOR, "refuses": Refuses(), "breaks": Breaks(), "frame": Frame(),
    "matrix": scipy.sparse.csr_array(X.reshape(N, -1)), "huge": [[[[10**400] * 4] * 4]] * N, "module": nn.Linear(2, 2),
    "class": np.ndarray, "tuples": (((None,) * 4,) * 4,) * N, "memory": memoryview(b"images"), "ellipsis": ...,
    "none": None, "text": "images", "number": 3, "dict": {"x": 1}, "object": object(), "ragged": [[1.0], [1.0, 2.0]],
    "set": {1.0, 2.0}, "function": np.sin, "bytes": b"images", "generator": (row for row in X),
}  # fmt: skip
WRONG_TYPE = {
    "objects": X.astype(object), "complex": X.astype(complex), "strings": X.astype(str),
    "dates": np.zeros(X.shape, "datetime64[s]"), "masked": masked(X),
    "records": np.zeros(X.shape, [("red", "f4"), ("green", "f4")]),
}  # fmt: skip
INTEGERS = {"uint8": (255 * X).astype(np.uint8), "int64": X.astype(np.int64), "bool": X > 0.5}
WRONG_SHAPE = {
    "one image": X[0], "flat": X.reshape(N, -1), "narrow": X[:, :, :3], "channels": np.repeat(X, 3, axis=1),
    "last": X.transpose(0, 2, 3, 1), "deep": X[None], "scalar": np.float32(0.5),
}  # fmt: skip
NOT_FINITE = {"nan": changed(X, np.nan), "inf": changed(X, np.inf), "-inf": changed(X, -np.inf)}
OUT_OF_RANGE = {"above": changed(X, 1.01), "below": changed(X, -0.01), "bytes scale": 255 * X}
EMPTY = {"empty": X[:0]}
IMAGES = {**NO_ARRAY, **WRONG_TYPE, **WRONG_SHAPE, **INTEGERS, **NOT_FINITE, **OUT_OF_RANGE}

ROWS = np.eye(C, dtype=np.float32)[Y]
LABELS = {
    **NO_TENSOR, "refuses": Refuses(), "breaks": Breaks(), "frame": Frame(), "huge numbers": [10**400] * N,
    "matrix": scipy.sparse.csr_array(ROWS), "class": np.ndarray, "tuples": ((None,) * C,) * N, "ellipsis": ...,
    "text": "labels", "number": 3, "dict": {"y": 1}, "object": object(), "ragged": [[1.0], [1.0, 2.0]],
    "short": Y[:-1], "long": np.append(Y, 0), "negative": changed(Y, -1), "too large": changed(Y, C),
    "huge": changed(Y, 10**9), "fraction": changed(Y, 0.5, float), "nan": changed(Y, np.nan, float),
    "inf": changed(Y, np.inf, float), "strings": Y.astype(str), "objects": np.array(["a"] * N, dtype=object),
    "complex": Y.astype(complex), "dates": np.zeros(N, "datetime64[s]"), "narrow": ROWS[:, :2],
    "wide": np.eye(C + 1, dtype=np.float32)[Y], "sums": 2 * ROWS, "nan rows": changed(ROWS, np.nan),
    "negative rows": changed(ROWS, -1.0), "deep": ROWS[None], "masked": masked(Y), "bytes": b"labels",
}  # fmt: skip
NO_LABELS = {"none": None}


@functools.cache
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, C))
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, C, **settings)


@functools.cache
def random_classifier():
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", "samples": 2}
    return RandomizedClassifier(randomize(classifier().model), nn.CrossEntropyLoss(), SHAPE, C, **settings)


def attacked(kind, **settings):
    small = {"nb_iter": 2, "nb_queries": 2} if kind is OfficialAutoAttack else {"max_iter": 2}
    return lambda x, y: kind(classifier(), eps=0.1, **small, **settings).generate(x, y)


FEW = ExplanationConfig(steps=2, samples=2)
# Of each: the call, and what it takes besides good arrays.
CALLS = {
    "fit": (lambda x, y: classifier().fit(x, y, nb_epochs=1), set()),
    "trainer": (lambda x, y: SensRegTrainer(classifier()).fit(x, y, nb_epochs=1, verbose=False), set()),
    "validation": (lambda x, y: classifier().fit(X, Y, nb_epochs=1, validation_data=(x, y)), set()),
    "projected": (attacked(ProjectedAscent), {"empty", "none labels", "int64", "bool"}),
    "hidden": (attacked(HiddenDistanceAttack), {"empty", "none labels", "int64", "bool"}),
    "far": (attacked(FarStartsAttack), {"empty", "none labels", "int64", "bool"}),
    "scaled": (attacked(ScaledLogitsAttack), {"empty", "none labels", "int64", "bool"}),
    "targeted": (attacked(TargetedMarginAttack), {"empty", "none labels", "int64", "bool"}),
    "official": (attacked(OfficialAutoAttack), {"empty", "none labels", "int64", "bool"}),
    # Of images that are not finite or out of range its checks say so.
    "audit": (
        lambda x, y: audit(classifier(), x, y, eps=0.1, checks=["eval_mode"]),
        {*NOT_FINITE, *OUT_OF_RANGE, "uint8", "int64"},
    ),
    "score": (lambda x, y: random_classifier().score(x, y, repeats=1), {"above", "below", "bytes scale"}),
    "gradient": (lambda x, y: input_gradient(classifier(), x, y), {"above", "below", "bytes scale"}),
    "insertion": (lambda x, y: insertion_area(classifier(), x, y, X, FEW), {"above", "below", "bytes scale"}),
    "deletion": (lambda x, y: deletion_area(classifier(), x, y, X, FEW), {"above", "below", "bytes scale"}),
    "explain": (lambda x, y: explain(classifier(), x, y, FEW), set()),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_images_are_one_clear_error(call):
    function, taken = CALLS[call]
    before = weights_of(classifier())

    def giving(name):
        return lambda: function({**IMAGES, **EMPTY}[name], Y[:0] if name == "empty" else Y)

    names = [name for name in {**IMAGES, **EMPTY} if name not in taken]
    none_taken("validation_data: x" if call == "validation" else "x", [(name, giving(name)) for name in names])
    assert same_weights(before, weights_of(classifier()))


@pytest.mark.parametrize("call", CALLS)
def test_wrong_labels_are_one_clear_error(call):
    function, taken = CALLS[call]
    before = weights_of(classifier())

    def giving(value):
        return lambda: function(X, value)

    values = {**LABELS, **({} if "none labels" in taken else NO_LABELS)}
    shown = "validation_data: y" if call == "validation" else "y"
    none_taken(shown, [(name, giving(value)) for name, value in values.items()])
    assert same_weights(before, weights_of(classifier()))


# --- predictions and gradients: they take images that are out of range or not finite, as ART's do ---------------------

QUERIES = {
    "predict": lambda x, y: classifier().predict(x),
    "loss_gradient": lambda x, y: classifier().loss_gradient(x, y),
    "class_gradient": lambda x, y: classifier().class_gradient(x),
}


@pytest.mark.parametrize("query", QUERIES)
def test_wrong_images_of_a_query(query):
    def giving(value):
        return lambda: QUERIES[query](value, ROWS)

    none_taken("x", [(name, giving(x)) for name, x in {**NO_ARRAY, **WRONG_TYPE, **WRONG_SHAPE}.items()])


def test_wrong_labels_of_a_loss_gradient():
    def giving(value):
        return lambda: classifier().loss_gradient(X, value)

    values = {name: y for name, y in LABELS.items() if name not in ("sums", "negative rows")}
    none_taken("y", [(name, giving(value)) for name, value in values.items()])


# --- penalties called alone -----------------------------------------------------------------------------------------

TENSORS = {
    "array": X, "none": None, "text": "images", "integers": torch.zeros(2, 1, 4, 4, dtype=torch.long),
    "scalar": torch.tensor(0.5), "vector": torch.rand(4), "empty": torch.rand(0, 1, 4, 4), "list": X.tolist(),
    "complex": torch.zeros(2, 1, 4, 4, dtype=torch.complex64), "bool": torch.zeros(2, 1, 4, 4, dtype=torch.bool),
}  # fmt: skip
PENALTIES = {
    "sensitivity": SensitivityPenalty(),
    "jacobian": JacobianPenalty(sigma=0.1),
    "exact": JacobianPenalty(estimator="exact"),
    "projection": JacobianPenalty(estimator="projection"),
    "fisher_rao": FisherRaoPenalty(eps=0.1, max_iter=2),
    "gradient_diversity": GradientDiversityPenalty(),
}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_wrong_tensors_and_models_given_to_a_penalty(penalty):
    model = random_classifier().model if penalty == "gradient_diversity" else classifier().model

    def giving(model, x):
        return lambda: PENALTIES[penalty](model, x, torch.tensor([0, 1]))

    none_taken("x", [(name, giving(model, x)) for name, x in TENSORS.items()])
    wrong = [None, 3, "x", nn.Linear, classifier()]
    none_taken("model", [(value, giving(value, torch.rand(2, 1, 4, 4))) for value in wrong])
