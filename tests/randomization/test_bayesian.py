import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from art_sensreg import GradDivTrainer, SensRegClassifier
from art_sensreg.randomization import BayesianKL, randomize
from art_sensreg.randomization.bayesian import gaussian_divergence
from art_sensreg.randomization.layers import RandomLayer
from tests.randomization.models import functional_model


def test_the_divergence_against_torchs_own():
    random = randomize(functional_model().double(), kind="bayesian", prior_std=0.2, initial_std=0.07)
    wanted = 0.0
    for module in random.modules():
        if isinstance(module, RandomLayer):
            for mean, rho in ((module.weight, module.weight_rho), (module.bias, module.bias_rho)):
                if mean is not None:
                    own = torch.distributions.Normal(mean, functional.softplus(rho))
                    prior = torch.distributions.Normal(torch.zeros_like(mean), 0.2)
                    wanted += torch.distributions.kl_divergence(own, prior).sum().item()
    assert BayesianKL()(random).item() == pytest.approx(wanted, rel=1e-9)
    mean, std = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(
        lambda m, s: gaussian_divergence(m, s, 0.5), (mean.requires_grad_(), std.requires_grad_())
    )
    # A sum over many weights in bfloat16 has two or three digits.
    half = randomize(nn.Linear(300, 300), kind="bayesian").bfloat16()
    assert BayesianKL()(half).dtype == torch.float32
    assert BayesianKL()(half).item() == pytest.approx(BayesianKL()(copy.deepcopy(half).double()).item(), rel=1e-2)
    with pytest.raises(ValueError, match="no Bayesian layer"):
        BayesianKL()(nn.Linear(2, 2))


def test_data_of_unknown_length_are_refused_where_the_weight_of_the_divergence_needs_it():
    model = randomize(nn.Linear(6, 3), kind="bayesian")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), (6,), 3, optimizer=optimizer, device_type="cpu")
    with pytest.raises(TypeError, match="The training data are generator, whose number of images is not known"):
        GradDivTrainer(classifier).fit((x for x in torch.rand(8, 6).numpy()), [0] * 8, verbose=False)
