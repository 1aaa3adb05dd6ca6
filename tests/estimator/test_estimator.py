"""The estimator obeys scikit-learn's rules, and trains what `SensRegTrainer` trains."""

import pickle

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegEstimator, TrainingConfig, audit
from art_sensreg.adversaries import PGD
from art_sensreg.models import build_model
from art_sensreg.trainers import SensRegTrainer
from tests.conftest import same_weights, weights_of

ROWS, LABELS = load_digits(return_X_y=True)
X, Y = ROWS[:300].astype("float32") / 16, LABELS[:300]


def convolutions(input_shape, nb_classes):
    return build_model("cnn-small", input_shape, nb_classes)


def seeds(estimator):
    """The weights of an estimator trained on the digits."""
    return weights_of(estimator.fit(X, Y).classifier_)


def reproducible():
    """The convolutions of a GPU give the same bits again."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


# No check is excepted.
@parametrize_with_checks([SensRegEstimator(random_state=0)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_it_trains_what_the_trainer_trains():
    estimator = SensRegEstimator(convolutions, nb_epochs=1, input_shape=(1, 8, 8), clip_values=(0, 1), random_state=3)
    with reproducible():
        estimator.fit(X.reshape(len(X), -1), Y)
    seed = np.random.RandomState(3).randint(2**31 - 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = convolutions((1, 8, 8), 10)
    classifier = SensRegClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        clip_values=(0, 1),
    )
    trainer = SensRegTrainer(classifier, config=TrainingConfig(seed=seed, nb_epochs=1))
    with reproducible():
        trainer.fit(X.reshape(-1, 1, 8, 8), Y, verbose=False)
    assert same_weights(weights_of(classifier), weights_of(estimator.classifier_))
    assert estimator.history_[0]["loss"] == trainer.history[0]["loss"]
    assert {"sensitivity", "jacobian"} <= set(estimator.history_[0])  # the default is SR and JR


def test_the_same_seed_gives_the_same_weights():
    estimator = SensRegEstimator(nb_epochs=1, random_state=0)
    before = torch.get_rng_state()
    first = seeds(estimator)
    assert same_weights(first, seeds(clone(estimator)))
    assert not same_weights(first, seeds(clone(estimator).set_params(random_state=1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_numpys_global_one_counts():
    def fit(seed):
        np.random.seed(seed)
        return seeds(SensRegEstimator(nb_epochs=1))

    assert same_weights(fit(0), fit(0))
    assert not same_weights(fit(0), fit(1))


def test_every_setting_reaches_the_run():
    estimator = SensRegEstimator(
        penalties=[],
        adversary=PGD(eps=0.1, eps_step=0.05, max_iter=1),
        optimizer=torch.optim.SGD,
        lr=0.25,
        batch_size=100,
        nb_epochs=2,
        clip_values=(0, 1),
        config=TrainingConfig(nb_epochs=7, max_grad_norm=1.0, seed=5),
        random_state=0,
    ).fit(X, Y)
    optimizer = estimator.classifier_.optimizer
    assert (type(optimizer), optimizer.param_groups[0]["lr"]) == (torch.optim.SGD, 0.25)
    assert len(estimator.history_) == 2
    assert "sensitivity" not in estimator.history_[0]


def test_an_adversary_changes_the_run():
    common = {"penalties": [], "nb_epochs": 1, "clip_values": (0, 1), "random_state": 0}
    plain = seeds(SensRegEstimator(**common))
    assert not same_weights(plain, seeds(SensRegEstimator(adversary=PGD(eps=0.1), **common)))


def test_a_module_is_trained_further_and_stays_as_it_was():
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    estimator = SensRegEstimator(model, lr=1e-9, nb_epochs=1, random_state=0)
    trained = seeds(estimator)
    assert same_weights(before, list(model.parameters()))
    assert all(torch.allclose(a, b.cpu(), atol=1e-6) for a, b in zip(before, trained, strict=True))


def test_it_searches_and_stands_at_the_end_of_a_pipeline():
    penalties = [[SensitivityPenalty(sigma=sigma), JacobianPenalty()] for sigma in (0.1, 0.2)]
    grid = {"sensregestimator__lr": [1e-9, 1e-2], "sensregestimator__penalties": penalties}
    pipeline = make_pipeline(MinMaxScaler(), SensRegEstimator(nb_epochs=5, random_state=0))
    search = GridSearchCV(pipeline, grid, cv=2).fit(ROWS[:300], Y)
    assert search.best_params_["sensregestimator__lr"] == 1e-2  # the other one does not learn
    assert search.best_params_["sensregestimator__penalties"] in penalties


def test_cross_validation_of_labels_that_are_words():
    words = np.array(["even", "odd"])[Y % 2]
    estimator = SensRegEstimator(lr=1e-2, nb_epochs=5, random_state=0)
    assert cross_val_score(estimator, X, words, cv=2).mean() > 0.6
    assert set(estimator.fit(X, words).predict(X)) == {"even", "odd"}
    assert estimator.decision_function(X).shape == (300,)
    np.testing.assert_array_equal(estimator.predict(X) == "odd", estimator.decision_function(X) > 0)


def test_probabilities_are_the_softmax_of_the_logits():
    estimator = SensRegEstimator(nb_epochs=1, random_state=0).fit(X, Y)
    logits = estimator.decision_function(X).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(estimator.predict_proba(X), expected, rtol=1e-5)


def test_attacks_and_the_audit_take_its_classifier():
    images = X.reshape(-1, 1, 8, 8)
    estimator = SensRegEstimator(convolutions, nb_epochs=1, clip_values=(0, 1), random_state=0).fit(images, Y)
    assert estimator.predict(images).shape == (300,)
    adversarial = FastGradientMethod(estimator.classifier_, eps=0.1).generate(images[:20])
    assert np.abs(adversarial - images[:20]).max() == pytest.approx(0.1)
    report = audit(estimator.classifier_, images[:50], Y[:50], eps=0.1, checks=["deterministic"])
    assert report["deterministic"].status == "PASS"


def test_a_pickled_estimator_predicts_the_same():
    estimator = SensRegEstimator(nb_epochs=1, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).predict_proba(X), estimator.predict_proba(X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": (1, 7, 9)}, r"`input_shape` is \(1, 7, 9\); expected one of 64 features"),
        ({"lr": 0.0}, "`lr` is 0.0; expected a finite number above 0"),
        ({"nb_epochs": 0}, "`nb_epochs` is 0"),
        ({"clip_values": (0, 0.5)}, "`x` has values from 0 to 1"),
    ],
)
def test_unusable_settings_are_refused_by_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        SensRegEstimator(**settings).fit(X, Y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="`y` has one class only"):
        SensRegEstimator().fit(X, np.zeros(len(X), dtype=int))
