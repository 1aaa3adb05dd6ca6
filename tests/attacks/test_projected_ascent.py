import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch

from art_sensreg.attacks import ProjectedAscent
from art_sensreg.attacks.base.norms import NORMS, perturbation_norm
from art_sensreg.benchmark.config.threat_models import perturbation_size
from tests.attacks.trained import Noisy, accuracy, points, trained, wrap

EPS = {"linf": 0.1, "l2": 0.6, "l1": 2.5}


@pytest.mark.parametrize("norm", NORMS)
def test_trained_network_is_attacked_within_budget(norm):
    classifier, (x, y) = wrap(trained()), points()
    before = x.copy()
    made = ProjectedAscent(classifier, norm=norm, eps=EPS[norm], max_iter=20, nb_restarts=2).generate(x, y)
    assert np.array_equal(x, before)
    assert made.dtype == np.float32
    assert made.shape == x.shape
    assert accuracy(classifier, x, y) > 0.95
    assert accuracy(classifier, made, y) < 0.7
    assert perturbation_norm(torch.from_numpy(made - x), norm).max() <= EPS[norm] + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1


def test_eps_is_in_the_users_units():
    model, (x, y) = trained(), points()
    unit = wrap(model)
    bytes_ = wrap(model, clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    one = ProjectedAscent(unit, eps=0.1, max_iter=10).generate(x, y)
    other = ProjectedAscent(bytes_, eps=25.5, max_iter=10).generate(255 * x, y)
    assert np.abs(other - 255 * x).max() <= 25.5 + 1e-4
    assert np.abs(other - 255 * x).max() > 25.4
    assert accuracy(bytes_, other, y) == pytest.approx(accuracy(unit, one, y), abs=0.02)


def test_at_least_as_strong_as_arts_at_equal_steps():
    classifier, (x, y) = wrap(trained()), points()
    settings = {"eps": 0.1, "eps_step": 0.02, "max_iter": 20}
    arts = ProjectedGradientDescentPyTorch(classifier, verbose=False, **settings).generate(x, np.eye(10)[y])
    ours = ProjectedAscent(classifier, **settings).generate(x, y)
    assert accuracy(classifier, ours, y) <= accuracy(classifier, arts, y) + 0.01


def test_restarts_only_ever_improve():
    classifier, (x, y) = wrap(trained()), points()
    broken = np.zeros(len(x), dtype=bool)
    counts = []
    for restarts in (1, 2, 4, 8):
        made = ProjectedAscent(classifier, eps=0.1, max_iter=3, nb_restarts=restarts).generate(x, y)
        now = classifier.predict(made).argmax(axis=1) != y
        assert (now >= broken).all()
        broken = now
        counts.append(now.sum())
    assert counts[-1] > counts[0]


def test_later_restarts_attack_only_what_is_left():
    sizes = []

    class Counting(ProjectedAscent):
        def attempt(self, victim):
            sizes.append(len(victim.x))
            return super().attempt(victim)

    classifier, (x, y) = wrap(trained()), points()
    wrong = (classifier.predict(x).argmax(axis=1) != y).sum()
    assert wrong
    made = Counting(classifier, eps=0.1, max_iter=5, nb_restarts=3).generate(x, y)
    assert sizes[0] == len(x) - wrong
    assert sizes[0] > sizes[1] >= sizes[2] >= (classifier.predict(made).argmax(axis=1) == y).sum()


def test_misclassified_images_come_back_as_they_are():
    classifier, (x, y) = wrap(trained()), points(10)
    wrong = (y + 1) % 10
    assert np.array_equal(ProjectedAscent(classifier, eps=0.1).generate(x, wrong), x)


def test_labels_as_indices_one_hot_or_predictions():
    classifier, (x, _) = wrap(trained()), points(20)
    predicted = classifier.predict(x).argmax(axis=1)
    attack = ProjectedAscent(classifier, eps=0.1, max_iter=5)
    made = attack.generate(x, predicted)
    assert np.array_equal(attack.generate(x, np.eye(10)[predicted]), made)
    assert np.array_equal(attack.generate(x), made)


def test_batches_cover_all_images():
    classifier, (x, y) = wrap(trained()), points(50)
    made = ProjectedAscent(classifier, eps=0.2, max_iter=20, batch_size=7).generate(x, y)
    assert accuracy(classifier, made, y) < 0.1
    assert np.array_equal(ProjectedAscent(classifier).generate(x[:0], y[:0]), x[:0])


@pytest.mark.parametrize("noisy", [False, True])
def test_same_seed_same_images_and_no_trace_is_left(noisy):
    model = Noisy(trained()) if noisy else trained()
    model.train()
    if noisy:
        model.model.eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    classifier, (x, y) = wrap(model), points(20)
    modes = [module.training for module in model.modules()]
    # Too few steps to reach the border, where different starts would end in the same corners.
    attacks = [ProjectedAscent(classifier, eps=0.1, eps_step=0.001, max_iter=5, seed=seed) for seed in (0, 0, 1)]
    made = []
    for attack in attacks:
        torch.rand(3), np.random.rand(3)  # whatever happened before
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
        made.append(attack.generate(x, y))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert np.random.get_state()[2] == states[2]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert [module.training for module in model.modules()] == modes
    gradients = [parameter.grad for parameter in model.parameters()]
    assert torch.equal(gradients[0], torch.ones_like(gradients[0]))
    assert all(gradient is None for gradient in gradients[1:])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"norm": 3}, ValueError, "`norm` is 3"),
        ({"eps": 0}, ValueError, "`eps` is 0"),
        ({"eps": float("nan")}, ValueError, "`eps` is nan"),
        ({"eps": "0.1"}, TypeError, "`eps` is '0.1'"),
        ({"eps_step": -1.0}, ValueError, "`eps_step` is -1.0"),
        ({"max_iter": 0}, ValueError, "`max_iter` is 0"),
        ({"nb_restarts": 1.5}, TypeError, "`nb_restarts` is 1.5"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"loss": "hinge"}, ValueError, "`loss` is 'hinge'; expected one of cross_entropy, margin, logits_ratio"),
        ({"schedule": "linear"}, ValueError, "`schedule` is 'linear'"),
    ],
)
def test_wrong_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        ProjectedAscent(wrap(trained()), **settings)


def test_wrong_inputs_are_refused():
    classifier, (x, y) = wrap(trained()), points(4)
    with pytest.raises(TypeError, match="`classifier` is"):
        ProjectedAscent(trained())
    attack = ProjectedAscent(classifier)
    for labels in (y[:3], y + 10, y - 10, y + 0.5, np.eye(7)[:4]):
        with pytest.raises(ValueError, match="`y` has"):
            attack.generate(x, labels)
    with pytest.raises(ValueError, match="`mask` is given"):
        attack.generate(x, y, mask=np.ones_like(x))


def test_settings_can_be_changed_as_in_art():
    attack = ProjectedAscent(wrap(trained()))
    attack.set_params(eps=0.05, nb_restarts=2)
    assert (attack.eps, attack.attempts) == (0.05, 2)
    with pytest.raises(ValueError, match="`eps` is -1"):
        attack.set_params(eps=-1)


def test_budget_in_the_suites_own_measure():
    classifier, (x, y) = wrap(trained()), points(30)
    for norm in ("linf", "l2"):
        made = ProjectedAscent(classifier, norm=norm, eps=0.3, max_iter=5).generate(x, y)
        assert perturbation_size(x, made, norm).max() <= 0.3 + 1e-6
