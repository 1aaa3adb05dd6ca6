import torch

from art_sensreg.attacks.base.other_classes import cheapest, random_guides


def test_choice_of_guides():
    cost = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    allowed = torch.tensor([[True, False, True], [False, False, False]])
    guides, found = cheapest(cost, allowed)
    assert (guides[0].item(), found.tolist()) == (2, [True, False])
    x, y = torch.arange(4.0)[:, None], torch.tensor([0, 0, 1, 2])
    for seed in range(10):
        chosen, found = random_guides(x, y, (x, y), torch.Generator().manual_seed(seed))
        assert found.all()
        assert (y[chosen[:, 0].long()] != y).all()
    chosen, found = random_guides(x[:2], y[:2], (x[:2], y[:2]), torch.Generator())
    assert torch.equal(chosen, x[:2])
    assert not found.any()
