"""The rivals: which adversary and penalties each is, with its paper's settings as defaults."""

import pytest
import torch
from torch import nn

from art_sensreg.adversaries import FGSMPGI, FGSMRS, NFGSM, PGD, TRADES, NuAT
from art_sensreg.benchmark.defences import DEFENCES, NotApplicable
from art_sensreg.benchmark.defences.registry import SMOKE_DEFENCES, resolve_options
from art_sensreg.benchmark.defences.rivals import RIVALS
from art_sensreg.penalties import GradientAlignmentPenalty, GradientNormPenalty, LogitPairingPenalty
from tests.benchmark.defences.from_art.training import accuracy, small_spec

ADVERSARIES = {
    "at": PGD(eps=0.1),
    "trades": TRADES(eps=0.1, max_iter=10),
    "at-awp": PGD(eps=0.1),
    "trades-awp": TRADES(eps=0.1, max_iter=10),
    "fgsm-rs": FGSMRS(eps=0.1),
    "fgsm-pgi": FGSMPGI(eps=0.1),
    "nuat": NuAT(eps=0.1),
    "gradalign": NFGSM(eps=0.1, noise=0.0),
}
PENALTIES = {
    "fgsm-pgi": [LogitPairingPenalty(weight=10.0)],
    "gradalign": [GradientAlignmentPenalty(weight=0.2, eps=0.1)],
    "gradnorm": [GradientNormPenalty(weight=0.1, norm="l1")],
}


def options_of(name, norm="linf", **given):
    return resolve_options(name, given, {"eps": 0.1, "norm": norm})


def test_each_is_what_its_paper_says():
    assert {defence.name for defence in RIVALS} == {*ADVERSARIES, *PENALTIES, "free"}
    for defence in RIVALS:
        if defence.name == "free":
            continue
        options = options_of(defence.name)
        assert (defence.adversary and defence.adversary(options)) == ADVERSARIES.get(defence.name)
        assert defence.penalties(options) == PENALTIES.get(defence.name, [])


def test_none_runs_by_default():
    assert not {defence.name for defence in RIVALS} & set(SMOKE_DEFENCES)


@pytest.mark.parametrize("name", [defence.name for defence in RIVALS])
def test_they_learn(digits, name):
    spec = small_spec(digits, epochs=6, learning_rate=0.01)
    classifier = DEFENCES[name].train(
        spec, options_of(name, **({"max_iter": 2} if "max_iter" in DEFENCES[name].options else {}))
    )
    assert accuracy(spec, classifier.model) > 0.5


@pytest.mark.parametrize("name", ["at", "trades"])
def test_steps_and_norm_can_be_set(name):
    options = options_of(name, norm="l2", max_iter=3, eps_step=0.05)
    adversary = DEFENCES[name].adversary(options)
    assert (adversary.norm, adversary.max_iter, adversary.step) == ("l2", 3, 0.05)
    with pytest.raises(ValueError, match="`max_iter` is 0"):
        options_of(name, max_iter=0)


@pytest.mark.parametrize("name", ["at-awp", "trades-awp"])
def test_weight_perturbation_can_be_switched_off(digits, name):
    spec = small_spec(digits, epochs=1)
    weights = []
    for defence, given in ((name, {}), (name, {"awp_gamma": 0.0}), (name.removesuffix("-awp"), {})):
        model = DEFENCES[defence].train(spec, options_of(defence, max_iter=1, **given)).model
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    with pytest.raises(ValueError, match="`awp_gamma` is -1"):
        options_of(name, awp_gamma=-1.0)


def test_gradnorm_has_a_smooth_activation_and_the_dual_norm(digits):
    assert any(
        isinstance(m, nn.SiLU)
        for m in DEFENCES["gradnorm"].new_model(small_spec(digits), options_of("gradnorm")).modules()
    )
    (penalty,) = DEFENCES["gradnorm"].penalties(options_of("gradnorm", norm="l2", weight=0.5))
    assert penalty == GradientNormPenalty(weight=0.05, norm="l2")
    with pytest.raises(ValueError, match="`activation` is 'tanhh'"):
        options_of("gradnorm", activation="tanhh")


def test_free_training_has_the_steps_of_the_others(digits):
    free, none = DEFENCES["free"], DEFENCES["none"]
    spec = small_spec(digits, epochs=4)
    classifiers = [one.train(spec, given) for one, given in ((none, {}), (free, options_of("free", replays=2)))]
    steps = [next(iter(one.optimizer.state.values()))["step"] for one in classifiers]
    assert steps[0] == steps[1] == spec.steps
    with pytest.raises(NotApplicable, match="free needs 5 epochs"):
        free.train(spec, options_of("free", replays=5))
    with pytest.raises(ValueError, match="`replays` is 0"):
        options_of("free", replays=0)


def test_gradnorm_is_not_trained_on_a_network_with_kinks(digits, monkeypatch):
    spec = small_spec(digits, model="own.py:network")
    for layer in (nn.ReLU(), nn.SiLU()):
        own = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), layer, nn.Linear(8, 10))
        monkeypatch.setattr(type(spec), "new_model", lambda self, own=own: own)
        if isinstance(layer, nn.SiLU):
            assert DEFENCES["gradnorm"].new_model(spec, options_of("gradnorm")) is own
            continue
        with pytest.raises(NotApplicable, match="gradnorm needs a smooth activation"):
            DEFENCES["gradnorm"].new_model(spec, options_of("gradnorm"))
