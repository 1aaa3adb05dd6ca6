import random
from functools import partial

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.models import build_model
from art_sensreg.randomized import RandomizedClassifier, RandomizedScore
from tests.attacks.random_models import noisy_classifier


@pytest.fixture
def make(digits):
    return partial(noisy_classifier, digits)


@pytest.fixture
def trained(make, digits):
    classifier = make()
    classifier.fit(digits.x_train, digits.y_train, nb_epochs=4, seed=0)
    return classifier


def test_score_of_a_known_distribution():
    # The second logit exceeds the first if a normal number exceeds 1; for the mean of 4, if one exceeds 2.
    class Coin(nn.Module):
        def forward(self, x):
            return torch.cat([torch.ones(len(x), 1), torch.randn(len(x), 1)], dim=1)

    classifier = RandomizedClassifier(Coin(), nn.CrossEntropyLoss(), (2,), 2, samples=4, device_type="cpu")
    score = classifier.score(np.zeros((500, 2)), np.zeros(500, dtype=int), repeats=40, seed=0)
    assert score.single_draw == pytest.approx(0.8413, abs=0.01)
    assert score.mean == pytest.approx(0.9772, abs=0.005)
    assert score.single_draw_spread == pytest.approx(np.sqrt(0.8413 * 0.1587 / 500), rel=0.35)
    assert score.mean_spread == pytest.approx(np.sqrt(0.9772 * 0.0228 / 500), rel=0.35)
    assert score.correct.shape == score.single_correct.shape == (40, 500)
    assert score.correct.dtype == score.single_correct.dtype == bool
    assert score.mean == pytest.approx(score.correct.mean())
    assert score.single_draw_spread == pytest.approx(score.single_correct.mean(axis=1).std(ddof=1))
    assert (score.repeats, score.samples) == (40, 4)
    other = classifier.score(np.zeros((500, 2)), np.ones(500, dtype=int), repeats=5)
    assert other.single_draw == pytest.approx(0.1587, abs=0.03)


def test_a_deterministic_model_has_no_spread(make, digits):
    classifier = make(std=0.0, samples=3)
    x, y = digits.x_test[:60], digits.y_test[:60]
    score = classifier.score(x, y, repeats=4)
    accuracy = (classifier.predict(x).argmax(1) == y).mean()
    assert (score.mean, score.mean_spread, score.single_draw, score.single_draw_spread) == (accuracy, 0, accuracy, 0)
    assert np.isnan(classifier.score(x, y, repeats=1).mean_spread)


def test_one_success_is_not_the_rate_of_success(trained, digits):
    x, y = digits.x_test[:200], digits.y_test[:200]
    one = trained.eot.model
    plain = PyTorchClassifier(
        one, nn.CrossEntropyLoss(), digits.input_shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    images, broken = x, np.zeros(len(x), dtype=bool)
    for _ in range(6):  # an attack that keeps whatever was misclassified once
        attack = ProjectedGradientDescent(plain, eps=0.05, eps_step=0.02, max_iter=3, num_random_init=1, verbose=False)
        tried = attack.generate(x, y=np.eye(10, dtype=np.float32)[y])
        images = np.where(broken[:, None, None, None], images, tried)
        broken |= plain.predict(images).argmax(1) != y
    score = trained.score(images, y, repeats=10, seed=0)
    assert score.single_draw > (~broken).mean() + 0.05
    assert score.single_draw_spread > 0


def test_arts_attack_works(trained, digits):
    x, y = digits.x_test[:100], digits.y_test[:100]
    clean = trained.score(x, y, repeats=3, seed=0)
    attack = ProjectedGradientDescent(trained, eps=0.2, eps_step=0.05, max_iter=10, verbose=False)
    images = attack.generate(x, y=np.eye(10, dtype=np.float32)[y])
    assert np.abs(images - x).max() < 0.2 + 1e-6
    assert clean.mean > 0.85
    assert trained.score(images, y, repeats=3, seed=0).mean < clean.mean - 0.5


def test_seeded_scores_are_reproducible_and_leave_no_trace(make, digits):
    class Outside(nn.Module):
        """Draws from everything but torch's global generator."""

        def __init__(self, model):
            super().__init__()
            self.model = model
            self.generator, self.other = torch.Generator(), np.random.default_rng(0)

        def forward(self, x):
            shift = random.random() + np.random.rand() + self.other.random() - 1.5
            return self.model(x + shift + 3 * torch.rand(x.shape, generator=self.generator) - 1.5)

    inner = Outside(build_model("mlp", digits.input_shape, 10))
    outside = RandomizedClassifier(inner, nn.CrossEntropyLoss(), digits.input_shape, 10, samples=2, device_type="cpu")
    x, y = digits.x_test[:50], digits.y_test[:50]
    for classifier in (make(samples=2), outside):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        first, again, other = (classifier.score(x, y, repeats=3, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
        assert np.array_equal(first.single_correct, again.single_correct)
        assert np.array_equal(first.correct, again.correct)
        assert not np.array_equal(first.single_correct, other.single_correct)
    torch.manual_seed(0)
    free = classifier.score(x, y, repeats=3)
    assert not np.array_equal(free.single_correct, classifier.score(x, y, repeats=3).single_correct)


def test_scores_take_labels_in_every_form(make, digits):
    classifier = make()
    x, y = digits.x_test[:20], digits.y_test[:20]
    forms = [y, y.tolist(), y[:, None], np.eye(10)[y], torch.from_numpy(y), y.astype(np.float32)]
    scores = [classifier.score(x, form, repeats=2, seed=0) for form in forms]
    assert all(np.array_equal(score.correct, scores[0].correct) for score in scores)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"y": np.zeros(3)}, ValueError, r"`y` has 3 labels; expected 20, one for each image"),
        ({"y": np.full(20, 10)}, ValueError, r"`y` has class indices from 10 to 10; expected 0 to 9"),
        ({"y": np.ones((20, 7))}, ValueError, r"`y` has 7 columns; expected 10"),
        ({"y": np.full(20, 1.5)}, ValueError, r"`y` has fractional class indices such as 1.5"),
        ({"x": np.zeros((20, 64))}, ValueError, r"`x` has shape \(20, 64\); expected \(n, 1, 8, 8\)"),
        ({"x": np.zeros((0, 1, 8, 8)), "y": []}, ValueError, r"`x` is empty"),
        ({"x": np.full((20, 1, 8, 8), np.nan)}, ValueError, r"`x` has NaN or infinite values in 20 of 20 images"),
        ({"repeats": 0}, ValueError, r"`repeats` is 0; expected a whole number of at least 1"),
        ({"batch_size": 2.5}, TypeError, r"`batch_size` is 2.5; expected a whole number"),
        ({"seed": -1}, ValueError, r"`seed` is -1; expected a whole number of at least 0"),
    ],
)
def test_wrong_arguments_of_score(make, digits, changes, kind, message):
    with pytest.raises(kind, match=message):
        make().score(**{"x": digits.x_test[:20], "y": digits.y_test[:20], **changes})


@pytest.mark.parametrize("loss", [nn.BCELoss(), nn.BCEWithLogitsLoss()])
def test_a_model_with_one_output_is_scored(loss):
    class Half(nn.Module):
        def forward(self, x):
            return x[:, :1] if isinstance(loss, nn.BCELoss) else x[:, :1] - 0.5

    classifier = RandomizedClassifier(Half(), loss, (2,), 2, device_type="cpu")
    x = np.array([[0.2, 0.0], [0.7, 0.0], [0.4, 0.0]])
    assert classifier.score(x, [0, 1, 1], repeats=2).correct.tolist() == [[True, True, False]] * 2


def test_a_score_is_shown_without_its_arrays():
    score = RandomizedScore(
        single_draw=0.5, single_draw_spread=0.1, mean=1.0, mean_spread=0.0, repeats=2, samples=4,
        correct=np.ones((2, 1), dtype=bool), single_correct=np.array([[True], [False]]),
    )  # fmt: skip
    assert repr(score) == (
        "RandomizedScore(single_draw=0.5, single_draw_spread=0.1, mean=1.0, mean_spread=0.0, repeats=2, samples=4)"
    )
    with pytest.raises(AttributeError):
        score.mean = 0.0
