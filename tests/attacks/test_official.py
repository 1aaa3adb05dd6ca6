"""The official AutoAttack inside ART gives what it gives outside, in anyone's units, and leaves nothing behind."""

import itertools
import logging
import sys

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegClassifier
from art_sensreg.attacks.authors import MIN_CLASSES, VERSIONS
from art_sensreg.attacks.official import OfficialAutoAttack
from art_sensreg.attacks.unit_box import UnitBox
from art_sensreg.models import build_model

package = pytest.importorskip("pyautoattack")

THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
EPS = {"linf": 0.12, "l2": 0.7, "l1": 1.5}
WEAK = {"nb_iter": 5, "nb_queries": 10}


@pytest.fixture(scope="module")
def victim(digits):
    torch.manual_seed(0)
    model = build_model("mlp", digits.input_shape, 10, "relu", "none")
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        clip_values=(0.0, 1.0),
        penalties=[SensitivityPenalty(sigma=0.2)],
    )
    classifier.fit(digits.x_train, digits.y_train, nb_epochs=10, batch_size=64, seed=0)
    return classifier


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


def linear(shape, classes, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    kwargs.setdefault("clip_values", (0.0, 1.0))
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, classes, **kwargs)


class Noisy(nn.Module):
    def __init__(self, model, std):
        super().__init__()
        self.model, self.std = model, std

    def forward(self, x):
        return self.model(x + self.std * torch.randn_like(x))


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
    ours = attack._authors_attacks(UnitBox(victim, digits.input_shape))._theirs
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
    classifier = SensRegClassifier(victim.model, loss, shape, 10, clip_values=clip, preprocessing=(low, width))
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
    box = UnitBox(classifier, shape)
    theirs, robust = directly(box, box.to_units(x), y, norm, EPS[norm], **WEAK)
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


# --- edges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", THEIRS)
@pytest.mark.parametrize("version", ["standard", "plus"])
def test_one_image_and_batches_of_one(victim, digits, norm, version):
    for n, batch_size in ((1, 250), (3, 1)):
        x, y = digits.x_test[:n], digits.y_test[:n]
        settings = {"version": version, "batch_size": batch_size, "nb_iter": 3, "nb_queries": 3}
        attack = OfficialAutoAttack(victim, norm=norm, eps=EPS[norm] / 3, **settings)
        x_adv = attack.generate(x, y)
        assert x_adv.shape == x.shape
        assert attack.robust.shape == (n,)


def test_nothing_is_rightly_classified(victim, digits):
    x, y = digits.x_test[:6], (victim.predict(digits.x_test[:6]).argmax(axis=1) + 1) % 10
    attack = OfficialAutoAttack(victim, eps=0.1)
    assert np.array_equal(attack.generate(x, y), x)
    assert not any(mask.any() for mask in attack.masks.values())


def test_all_are_broken_early(victim, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    attack = OfficialAutoAttack(victim, eps=0.6)
    x_adv = attack.generate(x, y)
    assert not attack.masks["apgd-ce"].any()
    assert not (victim.predict(x_adv).argmax(axis=1) == y).any()
    assert list(attack.masks) == ["clean", *VERSIONS["standard"]]


def test_binary_classifiers_with_one_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    classifier = PyTorchClassifier(model, nn.BCEWithLogitsLoss(), (1, 8, 8), 2, clip_values=(0.0, 1.0))
    x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    y = (classifier.predict(x)[:, 0] > 0).astype(int)
    attack = OfficialAutoAttack(classifier, eps=0.02, attacks=("apgd-ce", "square"), **WEAK)
    x_adv = attack.generate(x, y)
    assert np.array_equal(attack.robust, (classifier.predict(x_adv)[:, 0] > 0) == y)
    assert 0 < attack.robust.sum() < 20


# --- nothing is left behind -----------------------------------------------------------------------------------------


def test_surroundings_are_as_before(victim, digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    model.train()
    model[3].eval()
    model[1].weight.requires_grad_(False)
    model[4].weight.grad = torch.full_like(model[4].weight, 7.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def tracing(frame, event, arg):
        return None

    former, numbers = sys.gettrace(), (torch.get_rng_state(), np.random.get_state()[1].copy())
    sys.settrace(tracing)
    try:
        OfficialAutoAttack(classifier, eps=0.05, version="plus", **WEAK).generate(
            digits.x_test[:12], digits.y_test[:12]
        )
        after = sys.gettrace()
    finally:
        sys.settrace(former)
    assert after is tracing
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert np.array_equal(np.random.get_state()[1], numbers[1])
    assert [module.training for module in model.modules()] == [True, True, True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    gradients = [p.grad for p in model.parameters()]
    assert [g is None for g in gradients] == [True, True, True, True, False, True]
    assert (gradients[4] == 7).all()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_same_seed_same_images(victim, digits):
    x, y = digits.x_test[:10], digits.y_test[:10]

    def made(seed):
        torch.rand(1)
        return OfficialAutoAttack(victim, eps=0.15, attacks=("apgd-ce",), nb_iter=5, seed=seed).generate(x, y)

    assert np.array_equal(made(4), made(4))
    assert not np.array_equal(made(4), made(5))


def test_random_models_are_reproducible(victim, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    noisy = PyTorchClassifier(
        Noisy(victim.model, 0.1), nn.CrossEntropyLoss(), digits.input_shape, 10, clip_values=(0.0, 1.0)
    )
    made = []
    for _ in range(2):
        torch.rand(1)
        attack = OfficialAutoAttack(noisy, eps=0.12, version="rand", nb_iter=5, eot_iter=2)
        made.append((attack.generate(x, y), attack.robust))
    assert np.array_equal(made[0][0], made[1][0])
    assert np.array_equal(made[0][1], made[1][1])
    assert not any("randomized" in text for text in attack.warnings)


# --- warnings -------------------------------------------------------------------------------------------------------


def _warnings(model, x, y, **kwargs):
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    attack = OfficialAutoAttack(classifier, eps=0.1, **kwargs)
    attack.generate(x, y)
    return attack.warnings


class Differentiating(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.enable_grad():
            u = x if x.requires_grad else x.detach().requires_grad_()
            torch.autograd.grad(self.model(u).sum(), u, retain_graph=True)
        return self.model(x)


def test_their_warnings_are_kept(victim, digits, caplog):
    x, y, model = digits.x_test[:20], digits.y_test[:20], victim.model
    quick = {"attacks": ("apgd-ce",), "nb_iter": 3}
    with caplog.at_level(logging.WARNING, logger="art_sensreg.attacks.authors"):
        found = _warnings(Noisy(model, 0.2), x, y, **quick)
    assert any("randomized defense" in text for text in found)
    assert any("randomized defense" in record.message for record in caplog.records)
    assert any("dynamic defense" in text for text in _warnings(Differentiating(model), x, y, **quick))
    assert any(
        "probability distribution" in text for text in _warnings(nn.Sequential(model, nn.Softmax(1)), x, y, **quick)
    )
    # Their count of calls to autograd is global: after the dynamic model above it would accuse every other.
    assert _warnings(model, x, y, **quick) == []


class Steps(nn.Module):
    """Rounds the image in the forward pass: its gradient is zero."""

    def forward(self, x):
        return torch.round(x * 8) / 8


def test_masked_gradients_are_warned_of_and_square_breaks_them(victim, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    masked = nn.Sequential(Steps(), victim.model)
    found = _warnings(masked, x, y, attacks=("apgd-dlr", "square"), nb_iter=3, nb_restarts=1, nb_queries=300)
    assert any("points with zero gradient" in text for text in found)
    assert any("Square Attack has decreased" in text for text in found)
    assert len(set(found)) == len(found)


# --- wrong arguments ------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(victim, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'art_sensreg\[bench\]'"):
        OfficialAutoAttack(victim)


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"norm": 3}, ValueError, "`norm` is 3; expected one of linf"),
        ({"eps": 0}, ValueError, "`eps` is 0"),
        ({"eps": -1.0}, ValueError, "`eps` is -1.0"),
        ({"eps": "a"}, TypeError, "`eps` is 'a'"),
        ({"version": "fast"}, ValueError, "`version` is 'fast'; expected one of standard, plus, rand"),
        ({"version": "custom"}, ValueError, "`version` is 'custom'"),
        ({"version": "plus", "attacks": ["square"]}, ValueError, "`version` is 'plus' and `attacks` is given"),
        ({"attacks": ["pgd"]}, ValueError, "`attacks` is 'pgd'; expected one of apgd-ce"),
        ({"attacks": "square"}, ValueError, "`attacks` is 'square'"),
        ({"attacks": []}, ValueError, "`attacks`"),
        ({"seed": -1}, ValueError, "`seed` is -1"),
        ({"seed": None}, TypeError, "`seed` is None"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"nb_iter": 0}, ValueError, "`nb_iter` is 0"),
        ({"nb_queries": 1.5}, TypeError, "`nb_queries` is 1.5"),
        ({"norm": 1, "nb_iter": 2}, ValueError, "`nb_iter` is 2; expected at least 3"),
    ],
)
def test_wrong_settings(victim, settings, error, named):
    with pytest.raises(error, match=named):
        OfficialAutoAttack(victim, **settings)
    attack = OfficialAutoAttack(victim)
    if "version" not in settings and "attacks" not in settings:
        with pytest.raises(error, match=named):
            attack.set_params(**settings)


@pytest.mark.parametrize(
    ("classes", "settings", "needed"),
    [
        (3, {}, 4),
        (2, {"version": "rand"}, 3),
        (3, {"version": "plus"}, 4),
        (2, {"attacks": ["apgd-dlr"]}, 3),
        (3, {"attacks": ["fab", "apgd-t"]}, 4),
    ],
)
def test_too_few_classes(classes, settings, needed):
    with pytest.raises(ValueError, match=f"has {classes} classes; expected at least {needed}.*apgd-ce.*square"):
        OfficialAutoAttack(linear((1, 8, 8), classes), **settings)


def test_images_too_small_for_square():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\).*attacks=\('apgd-ce', 'apgd-t', 'fab-t'\)"):
        OfficialAutoAttack(linear((1, 2, 2), 4), norm=2)
    OfficialAutoAttack(linear((1, 2, 2), 4), norm=np.inf)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"y": np.zeros(3, dtype=int)}, ValueError, "`y`"),
        ({"y": np.full(4, 10)}, ValueError, "`y`"),
        ({"y": np.full(4, -1)}, ValueError, "`y`"),
        ({"y": np.zeros((4, 7))}, ValueError, "`y`"),
        ({"x": np.zeros((4, 1, 8, 8), dtype=np.uint8)}, TypeError, "`x` has dtype uint8"),
        ({"x": np.full((4, 1, 8, 8), np.nan)}, ValueError, "`x` has NaN"),
        ({"x": np.full((4, 1, 8, 8), 2.0)}, ValueError, "`x` has values"),
        ({"x": np.zeros((4, 64))}, ValueError, "`x` has shape"),
        ({"mask": np.ones((1, 8, 8))}, ValueError, "`mask`"),
        ({"epsilon": 0.1}, TypeError, "`epsilon`"),
    ],
)
def test_wrong_images_and_labels(victim, digits, arguments, error, named):
    usual = {"x": digits.x_test[:4], "y": digits.y_test[:4]}
    with pytest.raises(error, match=named):
        OfficialAutoAttack(victim, eps=0.1).generate(**(usual | arguments))


def test_wrong_classifiers():
    with pytest.raises(TypeError, match="expected ART's PyTorchClassifier"):
        OfficialAutoAttack(nn.Identity())
    x = np.zeros((2, 1, 8, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="no `clip_values`"):
        OfficialAutoAttack(linear((1, 8, 8), 4, clip_values=None)).generate(x)
    uneven = (np.zeros((1, 8, 8)), np.linspace(1, 2, 64).reshape(1, 8, 8))
    with pytest.raises(ValueError, match="expected one range for all channels"):
        OfficialAutoAttack(linear((1, 8, 8), 4, clip_values=uneven)).generate(x)


def test_it_is_an_attack_of_art(victim, digits):
    attack = OfficialAutoAttack(victim, norm="inf", eps=0.1, attacks=("apgd-ce",), nb_iter=3)
    assert isinstance(attack, EvasionAttack)
    assert "eps=0.1" in repr(attack)
    attack.set_params(eps=0.3, norm=2)
    x_adv = attack.generate(x=digits.x_test[:5], y=digits.y_test[:5])
    size = np.linalg.norm((x_adv - digits.x_test[:5]).reshape(5, -1), axis=1)
    assert size.max() <= 0.3 + 1e-6
