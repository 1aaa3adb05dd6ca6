import numpy as np
import torch
from torch import nn

from art_sensreg.attacks import TransferAttack
from tests.attacks.trained import LINF, accuracy, points, trained, victim_of, wrap


def test_transfer_uses_no_gradient_of_the_attacked_model():
    class Forbidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = trained()

        def forward(self, x):
            assert not torch.is_grad_enabled()
            return self.model(x)

    classifier, (x, y) = wrap(Forbidden()), points(30)
    made = TransferAttack(classifier, [wrap(trained(1))], **LINF).generate(x, y)
    assert accuracy(wrap(trained()), made, y) < 0.6


def test_each_surrogate_and_the_ensemble():
    classifier, (x, y) = wrap(trained()), points(10)
    surrogates = [wrap(trained(1)), wrap(trained(2))]
    attack = TransferAttack(classifier, surrogates, nb_restarts=2)
    assert attack.attempts == 6
    assert TransferAttack(classifier, surrogates, ensemble=False).attempts == 2
    assert TransferAttack(classifier, surrogates[:1]).attempts == 1
    log_probabilities = [torch.from_numpy(one.predict(x)).log_softmax(1) for one in surrogates]
    expected = [*log_probabilities, (log_probabilities[0] + log_probabilities[1]) / 2]
    for restart, number in enumerate((0, 0, 1, 1, 2, 2)):
        loss, logits = attack.get_loss_fn(victim_of(classifier, x, y, restart=restart))(torch.from_numpy(x))
        wanted = nn.functional.cross_entropy(expected[number], torch.from_numpy(y), reduction="none")
        assert torch.allclose(loss, wanted, atol=1e-5)
        assert np.allclose(logits, classifier.predict(x), atol=1e-5)


def test_surrogates_keep_their_modes():
    surrogate, (x, y) = wrap(nn.Sequential(nn.Dropout(0.5), trained(1))), points(10)
    surrogate.model.train()
    attack = TransferAttack(wrap(trained()), [surrogate], **LINF)
    made = attack.generate(x, y)
    assert surrogate.model.training
    assert all(module.training for module in surrogate.model.modules())
    assert all(parameter.grad is None for parameter in surrogate.model.parameters())
    surrogate.model.eval()
    assert np.array_equal(attack.generate(x, y), made)  # no dropout during the attack
