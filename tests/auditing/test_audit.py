"""The audit itself: its report, its arguments, what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import RandomizedClassifier, SensitivityPenalty, SensRegClassifier, audit
from art_sensreg.attacks import BPDA
from art_sensreg.auditing import CHECKS, AuditReport, Check
from art_sensreg.datasets import Dataset
from art_sensreg.models import build_model
from tests.auditing.models.honest import honest_model


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> PyTorchClassifier:
    return honest_model("plain", digits)[0]


def few(digits: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return digits.x_test[:60], digits.y_test[:60]


def test_the_report_has_what_the_contract_says(digits, plain):
    report = audit(plain, *few(digits), eps=0.1, norm="linf", seed=0, quick=True)
    assert isinstance(report, AuditReport)
    assert [check.name for check in report.checks] == list(CHECKS)
    for check in report.checks:
        assert check.status in ("PASS", "FAIL", "SKIP", "N/A", "ERROR")
        assert "arXiv" in check.source
        assert len(check.meaning.split()) > 8
        if check.status == "PASS":
            assert check.value <= check.threshold
    assert {check.name for check in report.checks if check.status == "SKIP"} == {
        "transfer_from_twin",
        "transfer_from_surrogates",
        "twin_falls",
    }
    assert report.verdict == "no failure detected"
    assert report.settings["points"] == 60
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))).verdict == report.verdict
    assert all(name in str(report) and name in report.as_markdown() for name in CHECKS)


def test_the_robust_accuracy_is_that_of_the_attack(digits, plain):
    """No higher than ART's PGD with the same steps says, and no lower than the official AutoAttack."""
    pytest.importorskip("pyautoattack")
    from art.attacks.evasion import ProjectedGradientDescent

    from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack

    x, y = digits.x_test[:100], digits.y_test[:100]
    found = audit(plain, x, y, eps=0.1, checks=["eps_zero_is_clean"]).settings["accuracy under the attack"]
    attack = ProjectedGradientDescent(plain, eps=0.1, eps_step=0.00625, max_iter=40, verbose=False)
    pgd = (plain.predict(attack.generate(x, np.eye(10)[y])).argmax(1) == y).mean()
    attack = OfficialAutoAttack(plain, eps=0.1, nb_iter=30, nb_queries=50)
    best = (plain.predict(attack.generate(x, y)).argmax(1) == y).mean()
    assert best - 0.01 <= found <= pgd + 0.03


def test_a_check_says_the_same_alone_and_among_all(digits, plain):
    whole = audit(plain, *few(digits), eps=0.1, quick=True)
    for name in ("far_starts_gain_little", "random_search_finds_nothing", "binarised_copies_fall"):
        alone = audit(plain, *few(digits), eps=0.1, quick=True, checks=[name])
        assert [check.name for check in alone.checks] == [name]
        assert alone.checks[0].value == whole[name].value


def test_nothing_is_left_behind(digits, plain):
    plain.model.train()
    for parameter in plain.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights = [parameter.detach().clone() for parameter in plain.model.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    x, y = few(digits)
    kept = x.copy()
    audit(plain, x, y, eps=0.1, quick=True, twin=plain)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_state).all()
    assert all(module.training for module in plain.model.modules())
    assert all(bool((parameter.grad == 1).all()) for parameter in plain.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, plain.model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.model.modules())
    assert (x == kept).all()


def test_a_check_that_raises_is_an_error_and_the_others_run(digits, plain, monkeypatch):
    def broken(evidence):
        raise RuntimeError("no memory\nleft")

    spec = CHECKS["deterministic"]
    monkeypatch.setitem(CHECKS, "deterministic", replace(spec, function=broken))
    report = audit(plain, *few(digits), eps=0.1, checks=["eval_mode", "deterministic", "budget_kept"])
    assert [check.status for check in report.checks] == ["PASS", "ERROR", "PASS"]
    assert report["deterministic"].note == "RuntimeError: no memory left"
    assert report.verdict == "do not trust: deterministic (error)"


def test_a_model_that_raises_gives_a_report_too(digits):
    class Raises(nn.Module):
        def forward(self, x):
            raise RuntimeError("not today")

    classifier = PyTorchClassifier(
        Raises(), nn.CrossEntropyLoss(), digits.input_shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    report = audit(classifier, *few(digits), eps=0.1, quick=True)
    assert "ERROR" in {check.status for check in report.checks}
    assert report.verdict.startswith("do not trust")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"eps": 0.0}, ValueError, "`eps` is 0.0; expected a finite number above 0"),
        ({"eps": -1}, ValueError, "`eps` is -1"),
        ({"eps": float("nan")}, ValueError, "`eps` is nan"),
        ({"eps": "much"}, TypeError, "`eps` is 'much'"),
        ({"norm": "l3"}, ValueError, "`norm` is 'l3'; expected one of linf"),
        ({"norm": 7}, ValueError, "`norm` is 7"),
        ({"checks": ["eval_mode", "magic"]}, ValueError, "`checks` is 'magic'; expected names of eval_mode"),
        ({"checks": []}, ValueError, "`checks` is empty"),
        ({"y": np.arange(59) % 10}, ValueError, "`y` has 59 labels; expected 60"),
        ({"y": np.full(60, 10)}, ValueError, "`y` has class indices from 10 to 10"),
        ({"y": np.full((60, 7), 1 / 7)}, ValueError, "`y` has rows of width 7"),
        ({"y": np.full(60, 0.5)}, ValueError, "`y` has fractional class indices"),
        ({"x": np.zeros((60, 1, 9, 9))}, ValueError, "`x` has images of shape"),
        ({"x": np.zeros((0, 1, 8, 8)), "y": np.zeros(0)}, ValueError, "`x` has shape"),
        ({"seed": -1}, ValueError, "`seed` is -1"),
        ({"twin": "none"}, TypeError, "`twin` holds str"),
        ({"surrogates": [nn.Identity()]}, TypeError, "`surrogates` holds Identity"),
        ({"train_data": np.zeros(3)}, ValueError, "`train_data` is not a pair"),
        ({"train_data": (np.zeros((5, 3)), np.zeros(5))}, ValueError, "`train_data`: `x` has images"),
    ],
)
def test_wrong_input_is_one_clear_error(digits, plain, given, error, words):
    x, y = few(digits)
    arguments = {"x": x, "y": y, "eps": 0.1, **given}
    with pytest.raises(error, match="^" + words.replace("(", r"\(")):
        audit(plain, arguments.pop("x"), arguments.pop("y"), **arguments)


def test_other_classifiers_are_refused(digits, plain):
    from art.estimators.classification import BlackBoxClassifier

    black_box = BlackBoxClassifier(lambda x: np.eye(10)[np.zeros(len(x), dtype=int)], digits.input_shape, 10)
    for classifier, name in ((black_box, "BlackBoxClassifier"), (plain.model, "FeatureClassifier")):
        with pytest.raises(TypeError, match=f"`classifier` is {name}; expected ART's PyTorchClassifier"):
            audit(classifier, *few(digits), eps=0.1)


def test_a_twin_of_other_images_is_refused(digits, plain):
    other = PyTorchClassifier(nn.Flatten(), nn.CrossEntropyLoss(), (1, 2, 5), 10, device_type="cpu")
    with pytest.raises(ValueError, match="`twin` takes images"):
        audit(plain, *few(digits), eps=0.1, twin=other)


class Noisy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x + 0.1 * torch.randn_like(x))


def test_a_random_model_is_judged_by_its_samples_if_it_is_declared(digits, plain):
    arguments = (Noisy(plain.model), nn.CrossEntropyLoss(), digits.input_shape, 10)
    undeclared = SensRegClassifier(*arguments, clip_values=(0.0, 1.0))
    declared = RandomizedClassifier(*arguments, clip_values=(0.0, 1.0), samples=16, device_type="cpu")
    checks = [
        "deterministic",
        "batch_independent",
        "eot_samples_suffice",
        "repeated_scoring_agrees",
        "gradients_not_zero",
    ]
    first = audit(undeclared, *few(digits), eps=0.1, checks=checks, quick=True)
    second = audit(declared, *few(digits), eps=0.1, checks=checks, quick=True)
    assert first["deterministic"].status == "FAIL"
    assert second["deterministic"].status == "N/A"
    assert second["batch_independent"].status == "N/A"
    assert "at 1, 4, 16 samples" in second["eot_samples_suffice"].note
    assert second["repeated_scoring_agrees"].value > 0


def test_a_surrogate_in_the_model_is_no_fault(digits, plain):
    """A quantiser alone fails; behind BPDA the attack works, and the gradient need not be the derivative."""

    def quantise(x: torch.Tensor) -> torch.Tensor:
        return torch.round(x * 8) / 8

    checks = [
        "gradients_not_zero",
        "gradients_match_differences",
        "gradients_hold_at_step_size",
        "binarised_copies_fall",
    ]
    model = BPDA(plain.model, quantise)
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), digits.input_shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    report = audit(classifier, *few(digits), eps=0.2, checks=checks)
    assert report.verdict == "no failure detected"


@pytest.mark.parametrize(("norm", "eps"), [(2, 0.5), ("l1", 2.0), (np.inf, 0.1)])
def test_every_norm(digits, plain, norm, eps):
    report = audit(plain, *few(digits), eps=eps, norm=norm, quick=True, twin=plain)
    assert report.verdict == "no failure detected"
    assert 0 < report.settings["accuracy under the attack"] < report.settings["clean accuracy"]


def test_a_binary_classifier_with_one_output(digits):
    rows = np.flatnonzero(np.isin(digits.y_train, (0, 1)))
    x, y = digits.x_train[rows], digits.y_train[rows]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(50):
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(torch.from_numpy(x))[:, 0], torch.from_numpy(y).float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    two = SensRegClassifier(
        nn.Sequential(model, TwoColumns()),
        nn.CrossEntropyLoss(),
        digits.input_shape,
        2,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    assert audit(two, x, y, eps=0.1, quick=True).verdict == "no failure detected"


class TwoColumns(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x, x], dim=1)


def test_penalties_say_which_layers_are_attacked(digits, plain, monkeypatch):
    asked = []
    from art_sensreg.auditing.checks import adaptive

    class Spy(adaptive.HiddenDistanceAttack):
        def __init__(self, *args, **kwargs):
            asked.append(kwargs["layers"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(adaptive, "HiddenDistanceAttack", Spy)
    layers = ["features.0"]
    audit(
        plain,
        *few(digits),
        eps=0.1,
        quick=True,
        checks=["hidden_distances_gain_little"],
        penalties=[SensitivityPenalty(layers=layers)],
    )
    assert asked == [layers, layers]


def test_the_verdict_names_what_failed():
    checks = (Check(name="a", status="PASS"), Check(name="b", status="FAIL"), Check(name="c", status="SKIP"))
    assert AuditReport(checks=checks).verdict == "do not trust: b"
    assert AuditReport(checks=checks[::2]).verdict == "no failure detected"


def test_an_untrained_model_has_a_report(digits):
    torch.manual_seed(0)
    model = build_model("mlp", digits.input_shape, 10)
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), digits.input_shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    report = audit(classifier, *few(digits), eps=0.1, quick=True)
    assert "ERROR" not in {check.status for check in report.checks}
