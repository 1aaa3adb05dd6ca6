import copy
import gc
import pickle
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import SensitivityPenalty
from art_sensreg.attacks.wrappers.eot import EOT
from tests.attacks.random_models import Function, Random


@pytest.mark.parametrize("samples", [1, 4, 16])
@pytest.mark.parametrize("kind", ["rows", "weights", "both"])
def test_samples_are_independent(samples, kind):
    # Unit noise on inputs or weights of a linear model moves a logit by |w|^2, or |x|^2.
    model = Random(rows=float(kind != "weights"), weights=float(kind != "rows"))
    x = torch.tensor([[1.0, -2.0, 0.5, 1.0]])
    by_rows, by_weights = model.linear.weight.square().sum(1), x.square().sum()
    expected = {"rows": by_rows, "weights": by_weights, "both": by_rows + by_weights + 4.0}[kind].expand(3)
    eot = EOT(model, samples).eval()
    with torch.no_grad():
        draws = torch.stack([eot(x)[0] for _ in range(1200)])
    assert torch.allclose(draws.var(0), expected.detach() / samples, rtol=0.2)
    error = (expected.detach() / samples / len(draws)).sqrt()
    assert ((draws.mean(0) - model.linear(x)[0]).abs() < 5 * error).all()


def test_treating_shared_noise_as_independent_would_average_nothing():
    model = Random(weights=1.0)
    x = torch.ones(1, 4)
    eot = EOT(model, 16, noise="rows").eval()
    with torch.no_grad():
        wrong = torch.stack([eot(x)[0] for _ in range(500)])
    assert torch.allclose(wrong.var(0), torch.full((3,), 4.0), rtol=0.3)


def quadrature(function, count=60):
    """The expectation of a function of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return sum(w * function(n) for n, w in zip(nodes, weights / weights.sum(), strict=True))


@pytest.mark.parametrize("noise", ["rows", "shared"])
def test_averages_and_gradients_are_those_of_the_expectation(noise):
    def logits(x, draw):
        z = x[:, :1] * (1 + draw)
        return torch.cat([z.square(), x[:, 1:] - z], dim=1)

    model = Function(lambda x: logits(x, torch.randn(len(x), 1, dtype=x.dtype)))
    x = torch.tensor([[0.4, 0.1], [-0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    closed = {
        "logits": quadrature(lambda e: logits(x, e)),
        "probabilities": quadrature(lambda e: logits(x, e).softmax(1)).log(),
    }
    assert torch.allclose(closed["logits"][:, 0], 2 * x[:, 0] ** 2)  # E (1 + e)^2 = 2
    for average, expected in closed.items():
        eot = EOT(model, 40000 if noise == "rows" else 3000, average=average, noise=noise).eval()
        found = eot(x)
        assert torch.allclose(found, expected, atol=0.04)
        for column in range(2):
            ours, exact = (torch.autograd.grad(z[:, column].sum(), x, retain_graph=True)[0] for z in (found, expected))
            assert torch.allclose(ours, exact, atol=0.15)


def test_probabilities_do_not_underflow():
    model = Function(lambda x: x + torch.tensor([[0.0, 500.0], [300.0, 0.0]]))
    assert EOT(model, 1, average="probabilities").eval()(torch.zeros(2, 2))[0].tolist() == [-500.0, 0.0]


SOURCES = {
    "torch": lambda module, shape: torch.rand(shape, dtype=torch.float64),
    "numpy": lambda module, shape: torch.from_numpy(np.random.rand(*shape)),
    "python": lambda module, shape: torch.tensor([random.random() for _ in range(int(np.prod(shape)))]).view(shape),
    "own": lambda module, shape: torch.rand(shape, dtype=torch.float64, generator=module.generator),
    "own of numpy": lambda module, shape: torch.from_numpy(module.other.random(shape)),
}


class FromSource(nn.Module):
    def __init__(self, source):
        super().__init__()
        self.source = SOURCES[source]
        self.linear = nn.Linear(4, 3).double()
        self.generator, self.other = torch.Generator(), np.random.default_rng(0)

    def forward(self, x):
        return self.linear(torch.tanh(3 * x * self.source(self, x.shape)))


@pytest.mark.parametrize("noise", ["rows", "shared"])
@pytest.mark.parametrize("source", SOURCES)
def test_several_passes_give_the_gradient_of_one(source, noise):
    x = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    model = FromSource(source)

    def gradients(**settings):
        eot = EOT(model, 6, noise=noise, **settings).eval()
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        model.generator.manual_seed(0)
        model.other = np.random.default_rng(0)
        logits = eot(x)
        outside = torch.get_rng_state(), random.getstate()
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1]))
        found = torch.autograd.grad(loss, [x, model.linear.weight], retain_graph=True)
        again = torch.autograd.grad(loss, [x, model.linear.weight])
        assert all(map(torch.equal, found, again))
        assert torch.equal(torch.get_rng_state(), outside[0])
        assert random.getstate() == outside[1]
        return eot.plan(x), [logits, *found]

    plan, whole = gradients()
    assert plan.recompute is False
    for settings in ({"max_rows": 3}, {"max_rows": 12}, {"max_rows": 1}, {"max_rows": 29}, {"memory": 400}):
        plan, parts = gradients(**settings)
        assert plan.recompute is True
        assert plan.samples * plan.images <= settings.get("max_rows", 30)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(whole, parts, strict=True))


class Bytes:
    """Bytes of those noted tensors that are still alive."""

    def __init__(self):
        self.now = self.most = 0

    def note(self, tensor):
        size = tensor.untyped_storage().nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(tensor.untyped_storage(), self.gone, size)

    def gone(self, size):
        self.now -= size


class Wide(torch.autograd.Function):
    """The identity, which keeps a hundred times its input for the gradient."""

    @staticmethod
    def forward(ctx, x, record):
        wide = x.repeat(1, 100)
        record.note(wide)
        ctx.save_for_backward(wide)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (wide,) = ctx.saved_tensors
        return gradient * wide[:, : gradient.shape[1]], None


@pytest.mark.parametrize("noise", ["rows", "shared"])
def test_memory_is_bounded(noise):
    x = torch.rand(8, 10, requires_grad=True)
    row = 100 * 10 * 4

    def most(**settings):
        record = Bytes()
        eot = EOT(Function(lambda x: Wide.apply(x + torch.rand_like(x), record)), 16, noise=noise, **settings).eval()
        eot.plan(x)
        gc.collect()
        record.now = record.most = 0
        loss = eot(x).square().sum()
        loss.backward()
        return record.most

    assert most() == 16 * 8 * row
    assert most(memory=20 * row) <= 20 * row
    assert most(max_rows=5) == 5 * row
    with torch.no_grad():
        assert EOT(Random(rows=0.1), 4, max_rows=1).eval()(torch.rand(3, 4)).shape == (3, 3)


def test_one_draw_in_training_mode():
    model = Random(rows=1.0)
    x = torch.rand(6, 4)
    eot = EOT(model, 4).train()
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    assert torch.equal(eot(x), expected)
    assert model.calls == [6, 6]
    torch.manual_seed(3)
    assert torch.equal(EOT(model, samples=1).eval()(x), expected)
    eot.eval()
    with eot.single_draws():
        torch.manual_seed(3)
        assert torch.equal(eot(x), expected)
    assert not torch.equal(eot(x), expected)


def test_random_transforms():
    turned = EOT(nn.Flatten(), 4000, transform=lambda x: x.rot90(int(torch.randint(4, ())), (2, 3))).eval()
    x = torch.rand(1, 1, 2, 2)
    assert torch.allclose(turned(x), x.mean().expand(1, 4), atol=0.05)
    assert turned.plan(x).samples == 1
    module = nn.Dropout(0.5)
    assert len(list(EOT(nn.Flatten(), transform=module).children())) == 2


def test_models_that_work_in_place_and_empty_batches():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    before = x.clone()
    for noise in ("rows", "shared"):
        eot = EOT(model, 4, noise=noise).eval()
        assert torch.allclose(eot(x), model(x.clone()))
        assert torch.equal(x, before)
        assert eot(x[:0]).shape == (0, 2)


def test_penalties_read_the_activations_of_one_draw():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2)).eval()
    x = torch.rand(6, 4)
    penalty = SensitivityPenalty(sigma=0.1)
    values = [penalty(m, x, generator=torch.Generator().manual_seed(0)) for m in (EOT(model, 5).eval(), model)]
    assert torch.allclose(*values)


def test_copies():
    eot = EOT(Random(rows=0.3, weights=0.3), 4, average="probabilities", max_rows=7).eval()
    x = torch.rand(3, 4)
    eot(x)
    for twin in (copy.deepcopy(eot), pickle.loads(pickle.dumps(eot))):
        outputs = []
        for module in (eot, twin):
            torch.manual_seed(0)
            outputs.append(module(x))
        assert torch.equal(*outputs)


def jitter(x):
    return x + torch.rand_like(x)


def test_repr_shows_the_settings():
    eot = EOT(nn.Linear(2, 2), 3, average="probabilities", noise="shared", max_rows=9, memory=1000, transform=jitter)
    again = EOT(eot.model, **eval(f"dict({eot.extra_repr()})"))
    assert again.extra_repr() == eot.extra_repr()
    assert again.transform is jitter
    assert "transform" not in EOT(nn.Linear(2, 2)).extra_repr()


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"model": len}, TypeError, r"`model` is builtin_function_or_method; expected an nn.Module"),
        ({"transform": 3}, TypeError, r"`transform` is int; expected a function"),
        ({"samples": 0}, ValueError, r"`samples` is 0; expected a whole number of at least 1"),
        ({"samples": 2.5}, TypeError, r"`samples` is 2.5; expected a whole number"),
        ({"average": "votes"}, ValueError, r"`average` is 'votes'; expected one of logits, probabilities"),
        ({"noise": "weights"}, ValueError, r"`noise` is 'weights'; expected one of auto, rows, shared"),
        ({"max_rows": 0}, ValueError, r"`max_rows` is 0; expected a whole number of at least 1"),
        ({"memory": -1}, ValueError, r"`memory` is -1; expected a whole number of at least 1"),
    ],
)
def test_wrong_arguments(settings, kind, message):
    with pytest.raises(kind, match=message):
        EOT(**{"model": nn.Identity(), **settings})


def test_wrong_outputs():
    with pytest.raises(ValueError, match=r"`model` returns shape \(1, 2\) for 12 images; expected one vector"):
        EOT(Function(lambda x: x.mean(0, keepdim=True)), 4, noise="rows").eval()(torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"`average` is 'probabilities' and the model returns outputs of shape \(1,\)"):
        EOT(nn.Linear(2, 1), 4, average="probabilities").eval()(torch.rand(3, 2))


@pytest.mark.gpu
def test_on_a_gpu():
    model = Function(lambda x: torch.tanh(x * torch.rand_like(x))).cuda()
    x = torch.rand(5, 4, device="cuda", requires_grad=True)
    gradients = []
    for max_rows in (None, 5):
        eot = EOT(model, 6, noise="shared", max_rows=max_rows).eval()
        assert eot.plan(x).recompute is (max_rows is not None)
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(eot(x).square().sum(), x)[0])
    assert torch.allclose(*gradients)
    assert EOT(Random(rows=0.3).cuda()).eval().plan(x).samples == 16
    assert EOT(Random(weights=0.3).cuda()).eval().plan(x).samples == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("samples", 0, "`samples` is 0"),
        ("samples", 1.5, "`samples` is 1.5"),
        ("average", "median", "`average` is 'median'; expected one of logits, probabilities"),
        ("noise", "row", "`noise` is 'row'; expected one of auto, rows, shared"),
        ("max_rows", 0, "`max_rows` is 0"),
        ("memory", -1, "`memory` is -1"),
    ],
)
def test_eot_checks_what_is_set(name, value, message):
    model = EOT(nn.Identity(), samples=4, max_rows=8)
    before = getattr(model, name)
    with pytest.raises((ValueError, TypeError), match=message):
        setattr(model, name, value)
    assert getattr(model, name) == before


def test_eot_can_be_changed():
    model = EOT(nn.Identity(), samples=4).eval()
    model.samples, model.average, model.noise, model.max_rows, model.memory = 2, "probabilities", "rows", None, 2**20
    x = torch.tensor([[1.0, 2.0]])
    assert torch.allclose(model(x), x.log_softmax(1))
    assert repr(model).startswith("EOT(\n  samples=2, average='probabilities', noise='rows', max_rows=None")
