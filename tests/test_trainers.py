import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainer, Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import (
    FIRETrainer,
    FisherRaoPenalty,
    GradDivTrainer,
    GradientDiversityPenalty,
    JacobianPenalty,
    RandomizedClassifier,
    SensitivityPenalty,
    SensRegTrainer,
    TrainingConfig,
    randomize,
)
from art_sensreg.adversaries import PGD
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


def test_penalties_of_the_trainer_win_over_those_of_the_classifier(make_classifier):
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
            device_type="cpu",
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
    from art_sensreg.art_bridge.preprocessing import Preprocessing

    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classifier = PyTorchClassifier(
        linear,
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        preprocessing=(np.array([0.3]), np.array([0.25])),
        device_type="cpu",
    )
    model = Preprocessing.of(classifier).trained_model()
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


def test_repr_is_the_call_that_makes_it(make_classifier):
    classifier = make_classifier()
    random = make_classifier(kind=PyTorchClassifier)
    random._model = random._make_model_wrapper(randomize(random.model, kind="rse"))
    config, adversary, fire = TrainingConfig(seed=0), PGD(eps=0.1), FisherRaoPenalty()
    graddiv = GradientDiversityPenalty(samples=3)
    trainers = {
        "SensRegTrainer(classifier, penalties=[])": SensRegTrainer(classifier, []),
        f"SensRegTrainer(classifier, penalties={PENALTIES}, config={config}, adversary={adversary})": SensRegTrainer(
            classifier, PENALTIES, config, adversary
        ),
        f"FIRETrainer(classifier, penalty={fire})": FIRETrainer(classifier),
        f"FIRETrainer(classifier, penalty={fire}, penalties={PENALTIES})": FIRETrainer(classifier, penalties=PENALTIES),
        f"GradDivTrainer(classifier, penalty={graddiv})": GradDivTrainer(random, samples=3),
    }
    for text, trainer in trainers.items():
        assert repr(trainer) == text
        again = eval(text, globals(), {"classifier": trainer.classifier})
        assert repr(again) == text


# --- FIRE and GradDiv -------------------------------------------------------------------------------------------------


def small_classifier(kind=PyTorchClassifier, random=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    if random:
        model = randomize(model, kind=random, **({"prior_std": 1.0} if random == "bayesian" else {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    kwargs = {"optimizer": optimizer, "clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
    return kind(model, nn.CrossEntropyLoss(), (6,), 3, **kwargs)


def clusters(n=120):
    generator = np.random.default_rng(0)
    y = np.arange(n) % 3
    return np.clip(np.eye(3).repeat(2, axis=1)[y] * 0.5 + 0.25 + 0.1 * generator.standard_normal((n, 6)), 0, 1), y


def test_fire_by_settings_penalty_and_preset_are_one():
    x, y = clusters()
    weights = []
    for arguments in (
        {"eps": 0.3, "eps_step": 0.01, "max_iter": 40},
        {"penalty": FisherRaoPenalty(eps=0.3, eps_step=0.01, max_iter=40)},
        {"penalty": "mnist"},
    ):
        trainer = FIRETrainer(small_classifier(), config=TrainingConfig(seed=0), **arguments)
        trainer.fit(x, y, nb_epochs=2, batch_size=32, verbose=False)
        assert trainer.history[-1]["fisher_rao"] > 0
        weights.append(trainer.get_classifier().model[0].weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_fire_brings_predictions_together():
    x, y = clusters()
    distances = []
    measure = FisherRaoPenalty(eps=0.2, eps_step=0.05, max_iter=8)
    for weight in (0.0, 5.0):
        trainer = FIRETrainer(small_classifier(), weight=weight, eps=0.2, eps_step=0.05, config=TrainingConfig(seed=0))
        trainer.fit(x, y, nb_epochs=20, batch_size=32, verbose=False)
        assert trainer.history[-1]["accuracy"] > 0.9
        model = trainer.get_classifier().model
        distances.append(float(measure(model, torch.from_numpy(x).float()).detach()))
    assert distances[1] < distances[0] / 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"penalty": "imagenet"}, ValueError, "`penalty` is 'imagenet'"),
        ({"penalty": 5.0}, TypeError, "`penalty` is 5.0; expected a FisherRaoPenalty"),
        ({"penalty": FisherRaoPenalty(), "eps": 0.1}, TypeError, "`penalty` and `eps` are both given"),
        ({"epsilon": 0.1}, TypeError, "unknown keyword argument `epsilon`=0.1; expected weight, "),
    ],
)
def test_wrong_arguments_of_fire(arguments, error, message):
    with pytest.raises(error, match=message):
        FIRETrainer(small_classifier(), **arguments)


@pytest.mark.parametrize("kind", ["rse", "bayesian", "pni"])
@pytest.mark.parametrize("classifier", [RandomizedClassifier, PyTorchClassifier])
def test_graddiv_on_randomised_networks(kind, classifier):
    x, y = clusters()
    trainer = GradDivTrainer(small_classifier(classifier, kind), weight=0.01, samples=3)
    trainer.fit(x, y, nb_epochs=25, batch_size=32, verbose=False)
    last = trainer.history[-1]
    assert last["accuracy"] > 0.6
    assert ("kl" in last) == (kind == "bayesian")
    if kind == "bayesian":
        assert trainer._penalties_for(x)[-1].weight == 1 / 120
        data = torch.utils.data.TensorDataset(torch.from_numpy(x).float(), torch.from_numpy(y))
        loader = torch.utils.data.DataLoader(data, batch_size=32)
        assert trainer._penalties_for(loader)[-1].weight == 1 / 120
        trainer.fit_generator(loader, nb_epochs=1, verbose=False)
        assert "kl" in trainer.history[-1]
    score = trainer.get_classifier().predict(x.astype(np.float32))
    assert score.shape == (120, 3)


def test_graddiv_refuses_what_is_not_random():
    with pytest.raises(ValueError, match="not random in evaluation mode"):
        GradDivTrainer(small_classifier())
    with pytest.raises(ValueError, match="`samples` is 1"):
        GradDivTrainer(small_classifier(random="rse"), samples=1)


def test_penalties_rise_over_the_warmup():
    x, y = clusters(96)
    trainers = []
    for warmup in (0.0, 0.5):
        config = TrainingConfig(seed=0, penalty_warmup=warmup)
        trainer = SensRegTrainer(small_classifier(), [SensitivityPenalty(weight=2.0)], config)
        trainer.fit(x, y, nb_epochs=4, batch_size=96, verbose=False)  # a step an epoch
        trainers.append(trainer)
    strengths = [(h["loss"] - h["base"]) / h["sensitivity"] for h in trainers[1].history]
    assert strengths == pytest.approx([0.0, 1.0, 2.0, 2.0], abs=1e-3)
    strengths = [(h["loss"] - h["base"]) / h["sensitivity"] for h in trainers[0].history]
    assert strengths == pytest.approx([2.0] * 4, abs=1e-3)
    with pytest.raises(ValueError, match=r"`penalty_warmup` is 1\.5"):
        TrainingConfig(penalty_warmup=1.5)
    with pytest.raises(ValueError, match="`compile` is True with a `penalty_warmup`"):
        TrainingConfig(penalty_warmup=0.5, compile=True)


def test_graddiv_takes_tensors_and_penalties_on_the_adversarial_pair():
    x, y = clusters()
    trainer = GradDivTrainer(
        small_classifier(random="bayesian"),
        penalties=[JacobianPenalty()],
        adversary=PGD(eps=0.05, max_iter=2, pair="adversarial"),
    )
    trainer.fit(torch.from_numpy(x).float(), torch.from_numpy(y), nb_epochs=1, batch_size=32, verbose=False)
    assert {"kl", "jacobian", "adversarial", "gradient_diversity"} <= set(trainer.history[0])
    assert trainer._penalties_for(torch.zeros(7, 6))[-1].weight == 1 / 7


def test_graddiv_is_not_compiled():
    x, y = clusters(32)
    trainer = GradDivTrainer(small_classifier(random="rse"), config=TrainingConfig(compile=True))
    with pytest.raises(ValueError, match="`compile` is True with a penalty that needs double backward"):
        trainer.fit(x, y, nb_epochs=1, verbose=False)
