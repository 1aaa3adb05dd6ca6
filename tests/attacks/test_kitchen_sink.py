import numpy as np

from art_sensreg.attacks import KitchenSinkAttack
from tests.attacks.trained import accuracy, points, trained, wrap


def test_the_first_images_that_are_classified_correctly_are_attacked():
    classifier, (x, y) = wrap(trained()), points(30)
    y[[0, 3]] = (y[[0, 3]] + 1) % 10
    attack = KitchenSinkAttack(classifier, eps=0.2, max_iter=10, nb_restarts=4, max_points=5)
    made = attack.generate(x, y)
    right = np.flatnonzero(classifier.predict(x).argmax(axis=1) == y)
    assert np.flatnonzero(attack.attacked).tolist() == right[:5].tolist()
    assert attack.attacked.shape == (30,)
    assert np.array_equal(made[~attack.attacked], x[~attack.attacked])
    assert accuracy(classifier, made[attack.attacked], y[attack.attacked]) < 0.5


def test_nothing_left_to_attack():
    classifier, (x, y) = wrap(trained()), points(5)
    attack = KitchenSinkAttack(classifier, max_iter=2)
    assert np.array_equal(attack.generate(x, (y + 1) % 10), x)
    assert not attack.attacked.any()


def test_no_two_restarts_do_the_same():
    classifier, (x, y) = wrap(trained()), points(6)
    seen = []

    class Watching(KitchenSinkAttack):
        def attempt(self, victim):
            found = super().attempt(victim)
            seen.append((found.losses[0].item(), victim.restart))
            # Nothing is ever broken: all restarts run.
            return type(found)(found.perturbed, found.margin.clamp(max=-1.0), *[found.last_margin] * 3)

    Watching(classifier, eps=0.05, max_iter=1, max_points=6).generate(x, y)
    assert [restart for _, restart in seen] == list(range(20))
    assert len({round(loss, 4) for loss, _ in seen}) == 20
