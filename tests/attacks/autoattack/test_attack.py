"""The official AutoAttack inside ART gives what it gives outside, in anyone's units."""

import itertools

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack
from art_sensreg.attacks.autoattack.backend import MIN_CLASSES, VERSIONS
from art_sensreg.attacks.autoattack.rescale import RescaledModel
from tests.attacks.autoattack.official_helpers import EPS, ORDER, THEIRS, WEAK, linear, smoothed

package = pytest.importorskip("pyautoattack")


@pytest.fixture
def victim():
    return smoothed()


def directly(model, x, y, norm, eps, seed=0, batch_size=250, nb_iter=None, nb_queries=None, classes=10, **kwargs):
    """What the package does when it is called as its readme says; strength is set as its users set it."""
    theirs = package.AutoAttack(model, norm=THEIRS[norm], eps=eps, seed=seed, device="cpu", **kwargs)
    if nb_iter is not None:
        theirs.fab.n_iter = nb_iter
        for attack in (theirs.apgd, theirs.apgd_targeted):
            attack.n_iter = attack.n_iter_orig = nb_iter
            attack.n_iter_2 = max(int(0.22 * nb_iter), 1)
            attack.n_iter_min = max(int(0.06 * nb_iter), 1)
            attack.size_decr = max(int(0.03 * nb_iter), 1)
    theirs.square.n_queries = nb_queries or theirs.square.n_queries
    for attack in (theirs.apgd_targeted, theirs.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    perturbed, predicted = theirs.run_standard_evaluation(
        torch.from_numpy(x), torch.from_numpy(y), batch_size=batch_size
    )
    return perturbed.numpy(), (predicted.numpy() == y)


# --- the same as outside ------------------------------------------------------------------------------------------


def test_versions_are_the_authors():
    for version, stages in VERSIONS.items():
        assert package.AutoAttack(nn.Flatten(), version=version).attacks_to_run == list(stages)


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_equals_the_package(victim, digits, version, norm):
    # Batches of 16 of 40 images: survivors move up into the batches of the next stage, and the last one is short.
    x, y = digits.x_test[:40], digits.y_test[:40]
    attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm], version=version, seed=3, batch_size=16, **WEAK)
    ours = attack.generate(x, y)
    theirs, robust = directly(victim.model, x, y, norm, EPS[norm], seed=3, batch_size=16, version=version, **WEAK)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(attack.robust, robust)
    assert 0 < robust.sum() < attack.masks["clean"].sum()


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("stage", MIN_CLASSES)
def test_a_single_attack_equals_the_package(victim, digits, stage, norm):
    x, y = digits.x_test[:30], digits.y_test[:30]
    attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm], attacks=(stage,), seed=1, batch_size=20, **WEAK)
    ours = attack.generate(x, y)
    theirs, robust = directly(
        victim.model, x, y, norm, EPS[norm], seed=1, batch_size=20, version="custom", attacks=[stage], **WEAK
    )
    assert attack.version == "custom"
    assert np.array_equal(ours, theirs)
    assert np.array_equal(attack.robust, robust)


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_strength_is_the_authors(victim, digits, version, norm):
    attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm], version=version)
    ours = attack._backend(RescaledModel(victim, digits.input_shape)).package
    theirs = package.AutoAttack(victim.model, norm=THEIRS[norm], eps=EPS[norm], seed=0, version=version)
    assert ours.attacks_to_run == theirs.attacks_to_run
    for kind in ("apgd", "apgd_targeted", "fab", "square"):
        settings = [
            {name: value for name, value in vars(getattr(made, kind)).items() if not callable(value)}
            for made in (ours, theirs)
        ]
        same = settings[0].keys() - {"logger", "device"}
        assert {name: settings[0][name] for name in same} == {name: settings[1][name] for name in same}


@pytest.mark.parametrize("classes", [4, 5])
def test_fewer_than_ten_classes(classes):
    classifier = linear((1, 8, 8), classes)
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    y = classifier.predict(x).argmax(axis=1)
    attack = OfficialAutoAttack(classifier, eps=0.02, **WEAK)
    ours = attack.generate(x, y)
    theirs, robust = directly(classifier.model, x, y, "linf", 0.02, classes=classes, **WEAK)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(attack.robust, robust)
    assert 0 < robust.sum() < 20


def test_two_classes_have_attacks_too():
    classifier = linear((1, 8, 8), 2)
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    attack = OfficialAutoAttack(classifier, eps=0.02, attacks=("apgd-ce", "fab", "fab-t", "square"), **WEAK)
    attack.generate(x)
    assert 0 < attack.robust.sum() < 20


# --- what is recorded, and what is returned -------------------------------------------------------------------------


@pytest.mark.parametrize("norm", THEIRS)
def test_masks_tell_what_the_classifier_says(victim, digits, norm):
    x, y = digits.x_test[:40], digits.y_test[:40].copy()
    y[:3] = (y[:3] + 1) % 10  # clean mistakes
    attack = OfficialAutoAttack(victim, norm=ORDER[norm], eps=EPS[norm], **WEAK)
    x_adv = attack.generate(x, y)
    assert list(attack.masks) == ["clean", *attack.stages]
    assert list(attack.seconds) == list(attack.stages)
    masks = list(attack.masks.values())
    assert np.array_equal(masks[0], victim.predict(x).argmax(axis=1) == y)
    assert np.array_equal(masks[-1], victim.predict(x_adv).argmax(axis=1) == y)
    assert np.array_equal(attack.robust, masks[-1])
    assert all((after <= before).all() for before, after in itertools.pairwise(masks))
    moved = (x_adv != x).reshape(40, -1).any(axis=1)
    assert np.array_equal(moved, masks[0] & ~masks[-1])
    size = np.linalg.norm((x_adv.astype(np.float64) - x).reshape(40, -1), ord=ORDER[norm], axis=1)
    assert size.max() <= EPS[norm] + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


class Deaf(PyTorchClassifier):
    """Its predictions are not those of its model."""

    def predict(self, x, batch_size=128, **kwargs):
        return np.tile(np.eye(10, dtype=np.float32)[3], (len(x), 1))


def test_an_image_that_the_classifier_does_not_mistake_does_not_count(victim, digits):
    x, shape = digits.x_test[:5], digits.input_shape
    classifier = Deaf(victim.model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0))
    attack = OfficialAutoAttack(classifier, eps=0.5, **WEAK)
    assert np.array_equal(attack.generate(x, np.full(5, 3)), x)
    assert all(mask.all() for mask in attack.masks.values())


def test_labels_come_in_any_form(victim, digits):
    x = digits.x_test[:12]
    predicted = victim.predict(x).argmax(axis=1)
    made = []
    for y in (None, predicted, predicted.tolist(), np.eye(10)[predicted], predicted[:, None].astype(np.float32)):
        attack = OfficialAutoAttack(victim, eps=0.1, attacks=["apgd-ce"], nb_iter=5)
        made.append(attack.generate(x, y=y))
        assert attack.masks["clean"].all()
    assert all(np.array_equal(made[0], other) for other in made[1:])


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize(("clip", "dtype"), [((0.0, 255.0), np.float32), ((-1.0, 1.0), np.float64)])
def test_the_users_units(victim, digits, clip, dtype, norm):
    """The classifier of [0, 1] behind a standardisation that maps other units to them."""
    low, width = clip[0], clip[1] - clip[0]
    loss, shape = nn.CrossEntropyLoss(), digits.input_shape
    classifier = SensRegClassifier(
        victim.model, loss, shape, 10, clip_values=clip, preprocessing=(low, width), device_type="cpu"
    )
    x, y = (low + width * digits.x_test[:40].astype(np.float64)).astype(dtype), digits.y_test[:40]
    eps = width * EPS[norm]
    attack = OfficialAutoAttack(classifier, norm=norm, eps=eps, **WEAK)
    x_adv = attack.generate(x, y)
    assert x_adv.dtype == dtype
    size = np.linalg.norm((x_adv.astype(np.float64) - x).reshape(40, -1), ord=ORDER[norm], axis=1)
    assert size.max() <= eps  # exactly: no rounding is left over
    assert x_adv.min() >= clip[0]
    assert x_adv.max() <= clip[1]
    assert np.array_equal(attack.robust, classifier.predict(x_adv).argmax(axis=1) == y)
    model = RescaledModel(classifier, shape)
    theirs, robust = directly(model, model.rescale(x), y, norm, EPS[norm], **WEAK)
    assert np.array_equal(attack.robust, robust)
    np.testing.assert_allclose(x_adv, low + width * theirs, atol=1e-5 * width)


def test_preprocessing_is_seen(victim, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    classifier = SensRegClassifier(
        victim.model,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        clip_values=(0.0, 1.0),
        preprocessing_defences=[FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=3)],
        device_type="cpu",
    )
    attack = OfficialAutoAttack(classifier, eps=0.2, attacks=("apgd-ce",), nb_iter=20)
    x_adv = attack.generate(x, y)
    assert np.array_equal(attack.robust, classifier.predict(x_adv).argmax(axis=1) == y)
    assert attack.robust.mean() < 0.3 < attack.masks["clean"].mean()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.12), ("l1", 0.6)])
def test_images_that_are_no_pictures(norm, eps):
    rows, pictures = linear((64,), 4), linear((1, 8, 8), 4)
    x = np.random.default_rng(0).random((20, 64), dtype=np.float32)
    flat = OfficialAutoAttack(rows, norm=norm, eps=eps, **WEAK)
    x_adv = flat.generate(x)
    same = OfficialAutoAttack(pictures, norm=norm, eps=eps, **WEAK).generate(x.reshape(20, 1, 8, 8))
    assert x_adv.shape == x.shape
    assert np.array_equal(x_adv, same.reshape(20, 64))
    assert 0 < flat.robust.sum() < 20


@pytest.mark.parametrize("shape", [(13,), (4, 6), (1, 12, 12), (2, 3, 4)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pictures_that_square_cannot_tile(shape, norm):
    classifier = linear(shape, 3)
    x = np.random.default_rng(0).random((8, *shape), dtype=np.float32)
    attack = OfficialAutoAttack(classifier, norm=norm, eps=2.0, attacks=["square"], nb_queries=60)
    x_adv = attack.generate(x)
    assert x_adv.shape == x.shape
    assert not attack.robust.all()
