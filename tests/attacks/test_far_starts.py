import torch

from art_sensreg.attacks import (
    FarStartsAttack,
)
from art_sensreg.attacks.base.norms import Ball
from tests.attacks.trained import (
    points,
    trained,
    victim_of,
    wrap,
)


def test_far_starts_are_far():
    classifier, (x, y) = wrap(trained()), points(40)
    attack = FarStartsAttack(classifier, eps=0.1)
    sizes, towards = [], None
    for restart in range(3):
        victim = victim_of(classifier, x, y, restart=restart, eps=0.1)
        start = attack.get_start(victim)
        sizes.append((start - victim.x).abs())
        towards = start if restart == 1 else towards
    # Pixels at 0 stay there in every second corner, and in a step towards an image that is 0 there too.
    assert sizes[0][torch.from_numpy((x > 0.1) & (x < 0.9))].min() > 0.0999
    assert sizes[1].amax((1, 2, 3)).min() > 0.0999
    assert 0.03 < sizes[2].mean() < 0.07
    # No coordinate moved away from the guide: each start is the projection of some image of another class.
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for row in range(len(x)):
        others = Ball("linf", 0.1, 0.0, 1.0).project(x[row].expand_as(x[y != y[row]]), x[y != y[row]])
        assert (others - towards[row]).abs().amax((1, 2, 3)).min() < 1e-6
