"""Units: what is in front of the model in training, and what noise and perturbations in the user's units then mean."""

import numpy as np
import pytest
import torch
from art.defences.preprocessor import GaussianAugmentation, LabelSmoothing, SpatialSmoothing
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from art.preprocessing.expectation_over_transformation.pytorch import EoTPyTorch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD
from art_sensreg.art_bridge.preprocessing import Preprocessing
from art_sensreg.training import ValidationAttack
from tests.conftest import same_weights, weights_of

SHAPE = (1, 4, 4)
X = np.random.default_rng(0).random((40, *SHAPE), dtype=np.float32)
Y = (X.mean(axis=(1, 2, 3)) > 0.5).astype(int)


class Affine(PreprocessorPyTorch):
    """`scale * x + shift`, in torch."""

    def __init__(self, scale=1.0, shift=0.0, apply_fit=True, apply_predict=True):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.scale, self.shift = scale, shift

    def forward(self, x, y=None):
        return x * self.scale + self.shift, y


class Gamma(Affine):
    def forward(self, x, y=None):
        return x.clamp(min=1e-6).pow(0.5), y


class Squared(Affine):
    def forward(self, x, y=None):
        return x * x, y


class Rounded(Affine):
    def forward(self, x, y=None):
        return torch.round(x * 7) / 7, y


class PartlyDetached(Affine):
    def forward(self, x, y=None):
        return torch.cat([x[..., :1].detach(), x[..., 1:]], dim=-1) * self.scale, y


class Swapped(Affine):
    def forward(self, x, y=None):
        return x * self.scale, None if y is None else y.flip(1)


class Draws(EoTPyTorch):
    """`n` rows an image, scaled by random numbers about 1."""

    def __init__(self, n, apply_fit=False, apply_predict=True):
        super().__init__(nb_samples=n, clip_values=(0.0, 1.0), apply_fit=apply_fit, apply_predict=apply_predict)
        self._device = torch.device("cpu")

    def _transform(self, x, y, **kwargs):
        return x * torch.empty(1).uniform_(0.5, 1.5), y


class Numpy(Preprocessor):
    """`scale * x`, in numpy."""

    def __init__(self, scale, apply_fit=True, apply_predict=True):
        super().__init__(is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.scale = scale

    def __call__(self, x, y=None):
        return x * np.float32(self.scale), y


class SpatialSmoothingOfMine(SpatialSmoothing):
    def __call__(self, x, y=None):
        return super().__call__(x / 255, y)


def make(defences=None, factor=1.0, model=None, **kwargs):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    kwargs.setdefault("clip_values", (0.0, factor))
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), SHAPE, 2, optimizer=optimizer, preprocessing_defences=defences, device_type="cpu",
        **kwargs,
    )  # fmt: skip


def fitted(classifier, factor=1.0, penalties=True, adversary=None, validate=True, x=X):
    """Trained with everything in the unit of images from 0 to `factor`."""
    chosen = [SensitivityPenalty(sigma=0.2 * factor, weight=factor**2), JacobianPenalty(weight=0.1 * factor**2)]
    attack = ValidationAttack(eps=0.1 * factor) if validate else None
    config = TrainingConfig(seed=0, nb_epochs=3, batch_size=20, validation_attack=attack)
    trainer = SensRegTrainer(classifier, chosen if penalties else [], config, adversary=adversary)
    data = (x * np.float32(factor), Y)
    trainer.fit(*data, validation_data=data if validate else None, verbose=False)
    return trainer


SCALINGS = {
    "x / 255": ([Affine(1 / 255)], 255.0),
    "in two steps": ([Affine(1 / 51), Affine(0.2)], 255.0),
    "3 x": ([Affine(3.0)], 1 / 3),
}


@pytest.mark.parametrize("adversary", [False, True])
@pytest.mark.parametrize("name", SCALINGS)
def test_rescaling_inside_is_training_on_rescaled_images(name, adversary):
    defences, factor = SCALINGS[name]
    plain = fitted(make(), adversary=PGD(eps=0.1) if adversary else None)
    scaled = fitted(make(defences, factor), factor, adversary=PGD(eps=0.1 * factor) if adversary else None)
    for first, second in zip(weights_of(plain.classifier), weights_of(scaled.classifier), strict=True):
        assert torch.allclose(first, second, atol=1e-4)
    for key in ("sensitivity", "jacobian"):
        assert scaled.history[-1][key] == pytest.approx(plain.history[-1][key] / factor**2, rel=1e-3)
    for key in ("val_loss", "val_robust_accuracy", "accuracy"):
        assert scaled.history[-1][key] == pytest.approx(plain.history[-1][key], abs=1e-3)


def test_bounds_for_each_feature():
    flat = np.zeros(16), np.full(16, 255.0)
    of_each = fitted(make([Affine(1 / 255)], 255.0, clip_values=flat), 255.0)
    assert Preprocessing.of(of_each.classifier).inside
    assert same_weights(
        weights_of(of_each.classifier), weights_of(fitted(make([Affine(1 / 255)], 255.0), 255.0).classifier)
    )


def test_shifting_and_standardising_come_in_arts_order():
    classifier = make([Affine(2.0, -1.0), Squared()], preprocessing=(0.3, 0.5))
    x = torch.tensor(X)
    expected = classifier.model(((2 * x - 1) ** 2 - 0.3) / 0.5)
    assert torch.allclose(Preprocessing.of(classifier).trained_model()(x), expected, atol=1e-5)
    assert np.allclose(classifier.predict(X), expected.detach(), atol=1e-5)
    trainer = fitted(classifier)
    assert trainer.history[-1]["val_accuracy"] == pytest.approx((classifier.predict(X).argmax(1) == Y).mean())


@pytest.mark.parametrize("defence", [Affine(-0.4, 0.7), Squared(), Gamma()], ids=lambda op: type(op).__name__)
def test_a_penalty_is_computed_on_the_complete_function(defence):
    classifier = make([defence])
    x = torch.tensor(0.1 + 0.8 * X[:6])
    value = JacobianPenalty(estimator="exact")(Preprocessing.of(classifier).trained_model(), x).item()

    def whole(rows):
        return classifier.model(defence.forward(rows)[0])

    jacobians = [torch.autograd.functional.jacobian(whole, row[None]) for row in x]
    assert value == pytest.approx(sum(float(j.pow(2).sum()) for j in jacobians) / 2 / len(x), rel=1e-4)


REFUSED = {
    "numpy": Numpy(1 / 255),
    "rounded": Rounded(),
    "partly detached": PartlyDetached(2.0),
    "labels too": Swapped(2.0),
    "training only": Affine(2.0, apply_predict=False),
    "a subclass of one that is known": SpatialSmoothingOfMine(channels_first=True, apply_fit=True),
}


@pytest.mark.parametrize("what", ["penalties", "adversary", "loader"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_may_change_the_unit_is_refused_where_it_counts(name, what):
    defence = REFUSED[name]
    classifier = make([defence], penalties=[SensitivityPenalty()] if what == "loader" else [])
    before = weights_of(classifier)
    unit_for = "penalties" if what == "loader" else what

    def train():
        if what == "loader":
            data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
            return classifier.fit_generator(torch.utils.data.DataLoader(data, batch_size=20), nb_epochs=1)
        adversary = PGD(eps=0.1) if what == "adversary" else None
        return fitted(classifier, penalties=what == "penalties", adversary=adversary, validate=False)

    message = rf"`preprocessing_defences` holds {type(defence).__name__}, which .* unit of `{unit_for}`"
    with pytest.raises(ValueError, match=message) as caught:
        train()
    assert "\n" not in str(caught.value)
    assert same_weights(before, weights_of(classifier))


@pytest.mark.parametrize("defence", [Numpy(1 / 255), Numpy(1 / 255, apply_fit=False), Affine(0.1, apply_fit=False)])
def test_a_validation_attack_needs_the_unit_too(defence):
    classifier = make([defence])
    with pytest.raises(ValueError, match=r"unit of `validation_attack`"):
        fitted(classifier, penalties=False)
    trainer = fitted(classifier, penalties=False, validate=False)
    assert trainer.history[-1]["epoch"] == 3  # without anything in a unit it is trained as ART trains


def test_what_keeps_the_unit_is_allowed():
    for defence in (
        LabelSmoothing(apply_fit=True),
        SpatialSmoothing(channels_first=True, apply_fit=True),
        Numpy(1.0),
    ):
        assert np.isfinite(fitted(make([defence])).history[-1]["loss"])


def test_random_preprocessors_inside_draw_the_same_for_clean_and_noisy_images():
    class Brightness(Affine):
        def forward(self, x, y=None):
            return x * torch.empty(len(x), 1, 1, 1).uniform_(0.2, 5.0), y

    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    classifier = make([Brightness()], model=linear)
    assert Preprocessing.of(classifier).inside
    penalty = SensitivityPenalty(sigma=1e-3, layers="logits", weight=1e-9)
    trainer = SensRegTrainer(classifier, [penalty], TrainingConfig(seed=0, nb_epochs=1))
    trainer.fit(X, Y, verbose=False)
    # Other draws would make it a million times larger: their difference over sigma squared.
    bound = 75 * linear[1].weight.detach().pow(2).sum().item()
    assert trainer.history[-1]["sensitivity"] < bound


def test_several_copies_of_an_image_are_refused_in_training_and_averaged_in_prediction():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    several, one = make([Draws(3)], model=linear), make(model=linear)
    torch.manual_seed(0)
    factors = torch.stack([torch.empty(1).uniform_(0.5, 1.5) for _ in range(3 * 5)]).reshape(5, 3).numpy()
    bias = one.predict(0 * X[:5])
    torch.manual_seed(0)
    mean = several.predict(X[:5])
    assert mean.shape == (5, 2)
    rows = np.eye(2, dtype=np.float32)[Y[:5]]
    assert several.loss_gradient(X[:5], rows).shape == (5, *SHAPE)
    torch.manual_seed(0)
    gradient = several.class_gradient(X[:5], 1)
    expected = factors.mean(axis=1)[:, None, None, None] * linear[1].weight[1].detach().numpy().reshape(SHAPE)
    assert np.allclose(gradient[:, 0], expected, atol=1e-5)
    assert several.compute_loss(X[:5], rows).shape == (5,)
    assert np.allclose(mean - bias, (one.predict(X[:5]) - bias) * factors.mean(axis=1)[:, None], atol=1e-2)
    with pytest.raises(ValueError, match=r"holds Draws, which makes 120 images of 40;"):
        fitted(several, penalties=False, validate=True)
    with pytest.raises(ValueError, match=r"holds Draws, which makes 120 images of 40;"):
        fitted(make([Draws(3, apply_fit=True)], model=linear), penalties=False, validate=False)


def test_penalties_of_weight_0_need_no_unit():
    plain, idle = make([Numpy(2.0)]), make([Numpy(2.0)])
    for classifier, penalties in ((plain, []), (idle, [SensitivityPenalty(weight=0.0)])):
        SensRegTrainer(classifier, penalties, TrainingConfig(seed=0)).fit(X, Y, nb_epochs=1, verbose=False)
    assert same_weights(weights_of(plain), weights_of(idle))


def test_what_preprocessors_draw_follows_the_seed(tmp_path):
    def run(state, seed=0, **options):
        np.random.seed(state)
        classifier = make([GaussianAugmentation(sigma=0.3, augmentation=False, apply_fit=True)])
        trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=seed))
        trainer.fit(X, Y, nb_epochs=2, verbose=False, **options)
        if not options:
            assert np.random.rand() == np.random.RandomState(state).rand()  # the caller's own generator stays
        return weights_of(classifier)

    first = run(1)
    assert same_weights(first, run(2, checkpoint_dir=tmp_path))
    assert same_weights(first, run(3, checkpoint_dir=tmp_path, resume=True))
    assert not same_weights(first, run(1, seed=1))
