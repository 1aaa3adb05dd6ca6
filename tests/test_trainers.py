import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainer, Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.models import build_model
from tests.conftest import same_weights, weights_of

PENALTIES = [SensitivityPenalty(), JacobianPenalty()]


def test_it_is_an_art_trainer(make_classifier):
    classifier = make_classifier(kind=PyTorchClassifier)
    trainer = SensRegTrainer(classifier)
    assert isinstance(trainer, Trainer)
    assert trainer.classifier is classifier
    assert trainer.get_classifier() is classifier


def test_a_plain_art_classifier_gets_the_same_weights_as_ours(make_classifier, digits):
    results = []
    for kind in (None, PyTorchClassifier):
        classifier = make_classifier(**({} if kind is None else {"kind": kind}))
        trainer = SensRegTrainer(classifier, PENALTIES, TrainingConfig(seed=3))
        trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=2, verbose=False)
        results.append(weights_of(classifier))
    assert same_weights(*results)


def test_whose_penalties_count(make_classifier):
    own, other = (SensitivityPenalty(sigma=0.1),), (SensitivityPenalty(sigma=0.2),)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SensRegTrainer(make_classifier(penalties=own)).penalties == own
        assert SensRegTrainer(make_classifier(), other).penalties == other
        assert SensRegTrainer(make_classifier(penalties=own), own).penalties == own
        assert SensRegTrainer(make_classifier()).penalties == (SensitivityPenalty(), JacobianPenalty())
        assert SensRegTrainer(make_classifier(), []).penalties == ()
    with pytest.warns(UserWarning, match="the trainer's are used"):
        assert SensRegTrainer(make_classifier(penalties=own), other).penalties == other


def test_config_and_fit_agree(make_classifier, digits):
    trainer = SensRegTrainer(make_classifier(), [], TrainingConfig(nb_epochs=4, batch_size=10))
    trainer.fit(digits.x_train[:20], digits.y_train[:20], verbose=False)
    assert len(trainer.history) == 4
    trainer.fit(digits.x_train[:20], digits.y_train[:20], nb_epochs=1, verbose=False)
    assert len(trainer.history) == 1


def test_fine_tuning_starts_from_the_trained_weights(make_classifier, digits):
    classifier = make_classifier()
    classifier.fit(digits.x_train, digits.y_train, nb_epochs=15, seed=0)
    x = torch.from_numpy(digits.x_test)
    before = JacobianPenalty(estimator="exact", squared=False)(classifier.model, x)
    tuner = SensRegTrainer(classifier, [JacobianPenalty(weight=0.05, estimator="projection", squared=False)])
    tuner.fit(digits.x_train, digits.y_train, nb_epochs=5, verbose=False)
    assert tuner.history[0]["accuracy"] > 0.85
    assert JacobianPenalty(estimator="exact", squared=False)(classifier.model, x) < 0.8 * before


@pytest.mark.parametrize("penalties", [PENALTIES, [JacobianPenalty(estimator="projection")], [SensitivityPenalty()]])
def test_training_lowers_the_penalties(make_classifier, digits, penalties):
    plain, defended = make_classifier("cnn-small"), make_classifier("cnn-small")
    for classifier, chosen in ((plain, []), (defended, penalties)):
        trainer = SensRegTrainer(classifier, chosen, TrainingConfig(seed=0))
        trainer.fit(digits.x_train, digits.y_train, nb_epochs=8, verbose=False)
    x = torch.from_numpy(digits.x_test)
    exact = JacobianPenalty(estimator="exact")
    assert exact(defended.model, x) < 0.5 * exact(plain.model, x)


def test_defended_models_are_harder_to_attack(make_classifier, digits):
    robust = []
    for penalties in ([], [SensitivityPenalty(sigma=0.2), JacobianPenalty()]):
        classifier = make_classifier("cnn-small")
        trainer = SensRegTrainer(classifier, penalties, TrainingConfig(seed=0))
        trainer.fit(digits.x_train, digits.y_train, batch_size=64, nb_epochs=15, verbose=False)
        attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.02, max_iter=20, verbose=False)
        x_adv = attack.generate(digits.x_test[:200], y=digits.y_test[:200])
        robust.append((classifier.predict(x_adv).argmax(1) == digits.y_test[:200]).mean())
    assert robust[1] > robust[0] + 0.1


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_sigma_is_in_the_users_units(digits, scale):
    """Standardisation and the range of the inputs change nothing when sigma is given in the same units."""

    def train(preprocessing, factor):
        torch.manual_seed(0)
        model = build_model("mlp", digits.input_shape, 10)
        classifier = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            digits.input_shape,
            10,
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
            clip_values=(0.0, factor),
            preprocessing=preprocessing,
        )
        penalties = [SensitivityPenalty(weight=factor**2, sigma=0.3 * factor), JacobianPenalty(weight=0.1 * factor**2)]
        trainer = SensRegTrainer(classifier, penalties, TrainingConfig(seed=0))
        trainer.fit(digits.x_train[:300] * np.float32(factor), digits.y_train[:300], nb_epochs=2, verbose=False)
        return weights_of(classifier)

    plain = train((0.0, 1.0), 1.0)
    scaled = train((0.0, scale), scale)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, scaled, strict=True))


@pytest.mark.parametrize("estimator", ["finite_difference", "projection", "exact"])
def test_penalties_are_measured_before_standardisation(digits, estimator):
    from art_sensreg.preprocessing import trained_model

    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classifier = PyTorchClassifier(
        linear, nn.CrossEntropyLoss(), digits.input_shape, 10, preprocessing=(np.array([0.3]), np.array([0.25]))
    )
    model = trained_model(classifier)
    x = torch.from_numpy(digits.x_test).repeat(8, 1, 1, 1)
    sigma = 0.1 if estimator == "finite_difference" else None
    value = JacobianPenalty(estimator=estimator, sigma=sigma, probes=5)(model, x).item()
    wanted = (linear[1].weight.pow(2).sum() / 0.25**2 / 2).item()
    assert value == pytest.approx(wanted, rel=1e-5 if estimator == "exact" else 0.05)
    assert SensitivityPenalty(layers=["1"])(model, x).item() == pytest.approx(wanted * 2 / 10, rel=0.05)


def test_arts_own_trainer_can_train_our_classifier(make_classifier, digits):
    classifier = make_classifier(penalties=PENALTIES)
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=2, verbose=False)
    AdversarialTrainer(classifier, attack, ratio=0.5).fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=1)
    assert "sensitivity" in classifier.history[-1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("model",), TypeError, r"`classifier` is str; expected an ART PyTorchClassifier"),
        ((None, 3), TypeError, r"`penalties` is 3"),
        ((None, SensitivityPenalty()), TypeError, r"`penalties` is SensitivityPenalty"),
        ((None, [], {"seed": 0}), TypeError, r"`config` is \{'seed': 0\}; expected a TrainingConfig"),
    ],
)
def test_wrong_arguments(make_classifier, arguments, error, message):
    arguments = (arguments[0] or make_classifier(), *arguments[1:])
    with pytest.raises(error, match=message):
        SensRegTrainer(*arguments)
