import pytest
import torch
from torch import nn

from art_sensreg.attacks import (
    ScaledLogitsAttack,
)
from tests.attacks.trained import (
    LINF,
    Saturated,
    Scaled,
    accuracy,
    points,
    trained,
    victim_of,
    wrap,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("scaled", 1), ("tiny", 1), ("saturated", 2)],  # 0: cross-entropy, 1: unit scale, 2: float64
)
def test_each_kind_of_scaling_does_its_part(name, kind):
    model = {"scaled": Scaled(trained(), 1000.0), "tiny": Scaled(trained(), 1e-12), "saturated": Saturated(trained())}
    classifier, (x, y) = wrap(model[name]), points()
    right = classifier.predict(x).argmax(axis=1) == y
    attack = ScaledLogitsAttack(classifier, scales=(1.0,), **LINF)
    assert attack.attempts == 3
    broken = [
        (attack.attempt(victim_of(classifier, x[right], y[right], restart=number)).margin > 0).double().mean()
        for number in range(kind + 1)
    ]
    assert broken[kind] > 0.7
    assert all(former < broken[kind] - 0.1 for former in broken[:-1]), broken


def test_scales_multiply_the_logits():
    classifier, (x, y) = wrap(trained()), points(10)
    attack = ScaledLogitsAttack(classifier, scales=(1, 10.0), double=False, nb_restarts=2)
    assert attack.attempts == 6
    logits = classifier.model(torch.from_numpy(x))
    for restart, scale in enumerate((1, 1, 10, 10)):
        loss = attack.get_loss_fn(victim_of(classifier, x, y, restart=restart))(torch.from_numpy(x))[0]
        expected = nn.functional.cross_entropy(scale * logits, torch.from_numpy(y), reduction="none")
        assert torch.allclose(loss, expected, atol=1e-5)


class Single(nn.Module):
    """Refuses to compute in float64."""

    def __init__(self):
        super().__init__()
        self.model = trained()

    def forward(self, x):
        return self.model(x.float())


def test_model_that_refuses_float64_is_attacked_as_it_is(caplog):
    classifier, (x, y) = wrap(Single()), points(40)
    made = ScaledLogitsAttack(classifier, scales=(), **LINF).generate(x, y)
    assert "No float64 copy of the model" in caplog.text
    assert accuracy(classifier, made, y) < 0.3


def test_float64_copy_leaves_the_model_alone():
    model, (x, y) = trained(), points(10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ScaledLogitsAttack(wrap(model), scales=(), **LINF).generate(x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32
