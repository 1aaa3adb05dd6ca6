import copy

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import FGSMRS
from art_sensreg.objectives import Objective
from art_sensreg.penalties.base import COMPILES_PASSES
from art_sensreg.randomization import randomize
from art_sensreg.training.numerics.micro_batches import examples_at_once


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 4)).double()


@pytest.fixture
def batch():
    return torch.rand(5, 6).double(), torch.tensor([0, 1, 2, 3, 0])


def evaluate(objective, net, batch, seed=0):
    objective.prepare(net, batch[0])
    return objective(net, *batch, torch.Generator().manual_seed(seed))


class Counter(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.sizes = net, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.net(x)


def test_everything_comes_from_one_pass_over_clean_and_noisy_examples(net, batch):
    objective = Objective([SensitivityPenalty(), JacobianPenalty()])
    counter = Counter(net)
    objective.prepare(counter, batch[0])
    counter.sizes.clear()
    objective(counter, *batch)
    assert counter.sizes == [10]


def test_the_terms_are_those_of_separate_computations(net, batch):
    sr, jr = SensitivityPenalty(weight=0.7, sigma=0.2, probes=2), JacobianPenalty(weight=0.3)
    terms, logits = evaluate(Objective([sr, jr]), net, batch)
    x, y = batch
    assert torch.allclose(logits, net(x))
    assert torch.isclose(terms["base"], nn.functional.cross_entropy(net(x), y))
    assert torch.isclose(terms["sensitivity"], sr(net, x, generator=torch.Generator().manual_seed(0)))
    copies, sigma = sr.branches(torch.nn.Identity(), x, torch.Generator().manual_seed(0), None)
    shared = torch.stack([(net(noisy) - net(x)).pow(2).sum(1).mean() for noisy in copies]).mean() / sigma**2 / 2
    assert torch.isclose(terms["jacobian"], shared)
    assert torch.isclose(terms["loss"], terms["base"] + 0.7 * terms["sensitivity"] + 0.3 * terms["jacobian"])


@pytest.mark.parametrize("estimator", ["exact", "projection"])
def test_derivative_estimators_share_the_pass_too(net, batch, estimator):
    counter = Counter(net)
    objective = Objective([SensitivityPenalty(), JacobianPenalty(estimator=estimator)])
    objective.prepare(counter, batch[0])
    counter.sizes.clear()
    terms, _ = objective(counter, *batch)
    assert counter.sizes == [10]
    if estimator == "exact":
        assert torch.isclose(terms["jacobian"], JacobianPenalty(estimator="exact")(net, batch[0]))


def test_a_jacobian_penalty_with_its_own_sigma_draws_its_own_noise(net, batch):
    counter = Counter(net)
    objective = Objective([SensitivityPenalty(sigma=0.3), JacobianPenalty(sigma=0.05)])
    objective.prepare(counter, batch[0])
    counter.sizes.clear()
    objective(counter, *batch)
    assert counter.sizes == [15]


@pytest.mark.parametrize("penalties", [[], [SensitivityPenalty(weight=0), JacobianPenalty(weight=0)]])
def test_weight_0_is_the_plain_loss_and_draws_nothing(net, batch, penalties):
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    objective = Objective(penalties)
    objective.prepare(net, batch[0])
    terms, _ = objective(net, *batch, generator)
    assert list(terms) == ["loss", "base"]
    assert torch.equal(terms["loss"], nn.functional.cross_entropy(net(batch[0]), batch[1]))
    assert torch.equal(generator.get_state(), state)


def test_own_penalties_are_functions_or_small_classes(net, batch):
    def first_weights(model, x, y):
        return model[0].weight.pow(2).sum()

    class Margin:
        weight, name = 0.5, "margin"

        def __call__(self, model, x, y):
            return model(x).gather(1, y[:, None]).mean()

    terms, _ = evaluate(Objective([first_weights, Margin(), SensitivityPenalty(), first_weights]), net, batch)
    assert list(terms) == ["loss", "base", "first_weights", "margin", "sensitivity", "first_weights_2"]
    wanted = terms["base"] + 2 * terms["first_weights"] + 0.5 * terms["margin"] + terms["sensitivity"]
    assert torch.isclose(terms["loss"], wanted)


def test_gradients_reach_all_weights(net, batch):
    terms, _ = evaluate(Objective([SensitivityPenalty(), JacobianPenalty()]), net, batch)
    terms["loss"].backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in net.parameters())


def test_batch_norm_statistics_are_those_of_plain_training(batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double().train()
    plain = copy.deepcopy(net)
    plain(batch[0])
    evaluate(Objective([SensitivityPenalty(), JacobianPenalty(), JacobianPenalty(estimator="projection")]), net, batch)
    assert all(torch.allclose(a, b) for a, b in zip(net.buffers(), plain.buffers(), strict=True))


@pytest.mark.parametrize("name", ["loss", "base", "accuracy", "seconds", "epoch"])
def test_a_penalty_cannot_take_the_place_of_another_entry(net, batch, name):
    def own(model, x, y):
        return model[0].weight.pow(2).sum()

    own.__name__ = name
    terms, _ = evaluate(Objective([own]), net, batch)
    assert list(terms) == ["loss", "base", f"{name}_2"]
    assert torch.isclose(terms["base"], nn.functional.cross_entropy(net(batch[0]), batch[1]))
    assert torch.isclose(terms["loss"], terms["base"] + terms[f"{name}_2"])


def test_names_stay_unique_whatever_they_are(net, batch):
    class Named:
        def __init__(self, name):
            self.name = name

        def __call__(self, model, x, y):
            return model(x).mean()

    terms, _ = evaluate(Objective([Named("x_2"), Named("x"), Named("x")]), net, batch)
    assert list(terms) == ["loss", "base", "x_2", "x", "x_3"]


@pytest.mark.parametrize("value", [torch.ones(3), 0.5, None])
def test_a_term_must_be_a_0_d_tensor(net, batch, value):
    def odd(model, x, y):
        return value

    with pytest.raises(TypeError, match=r"The term `odd` is .*; expected a 0-d tensor"):
        evaluate(Objective([odd]), net, batch)
    with pytest.raises(TypeError, match=r"The term `base` is a tensor of shape \(5,\); .*reduction='mean'"):
        evaluate(Objective([], nn.CrossEntropyLoss(reduction="none")), net, batch)


def test_an_own_penalty_moves_no_batch_norm_statistics(batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double().train()
    plain = copy.deepcopy(net)
    plain(batch[0])
    evaluate(Objective([lambda model, x, y: model(x).mean()]), net, batch)
    assert all(torch.allclose(a, b) for a, b in zip(net.buffers(), plain.buffers(), strict=True))


def test_a_model_that_works_in_place_leaves_the_batch_to_the_others():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            return self.inner(x.sub_(0.5).div_(0.25))

    seen = []

    def watching(model, x, y):
        seen.append(x.detach().clone())
        return x.sum() * 0

    x = torch.rand(8, 6)
    before = x.clone()
    model = randomize(InPlace(), kind="rse")
    objective = Objective([SensitivityPenalty(), watching])
    objective.prepare(model, x)
    objective(model, x, torch.arange(8) % 3)
    assert torch.equal(seen[-1], before)


@pytest.mark.parametrize(("layer", "one_graph"), [(nn.BatchNorm1d(8), True), (nn.Dropout(), False)])
def test_a_compiled_step_is_the_same(layer, one_graph):
    """One graph, unless random numbers are drawn in it: their generators are no business of the compiler's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), layer, nn.ReLU(), nn.Linear(8, 4)).train()
    x, y = torch.rand(5, 6), torch.tensor([0, 1, 2, 3, 0])
    objective = Objective([SensitivityPenalty(sigma=0.1), JacobianPenalty()])
    objective.prepare(net, x)

    def loss(x):
        return objective(net, x, y)[0]["loss"]

    torch.manual_seed(0)
    wanted = loss(x)
    torch.compiler.reset()  # what other tests have compiled, or could not
    compiled = torch.compile(loss, backend="eager", fullgraph=one_graph and COMPILES_PASSES)
    torch.manual_seed(0)
    assert torch.isclose(compiled(x), wanted)


WHOLE = [SensitivityPenalty(top_layers=1), SensitivityPenalty(scale="relative", top_layers=0.5)]
NUCLEAR = JacobianPenalty(norm="nuclear", sigma=0.1)


@pytest.mark.parametrize("penalty", [*WHOLE, NUCLEAR], ids=repr)
def test_values_of_whole_batches_are_not_computed_in_parts(net, batch, penalty):
    for penalties, parts in (([SensitivityPenalty()], True), ([penalty], False)):
        objective = Objective(penalties)
        objective.prepare(net, batch[0])
        assert (examples_at_once(objective, 1) is not None) == parts


@pytest.mark.parametrize("penalty", [*WHOLE, JacobianPenalty(norm="nuclear")], ids=repr)
def test_adversarial_pairs_are_compared_with_every_option(net, batch, penalty):
    """The same as noisy copies at the place of the adversarial images."""
    adversary = FGSMRS(eps=0.1, pair="adversarial", clean_fraction=0.5)
    terms, _ = evaluate(Objective([penalty], adversary=adversary), net, batch)
    x, y = batch
    perturbed = adversary.perturb(net, x, y, nn.CrossEntropyLoss(), torch.Generator().manual_seed(0))

    class Given(type(penalty)):
        def branches(self, model, x, generator, clip_values):
            return [perturbed], 0.1

    options = {**vars(penalty), **({"sigma": 0.1} if penalty.name == "jacobian" else {})}
    assert torch.isclose(terms[penalty.name], Given(**options)(net, x))
