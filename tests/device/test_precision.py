"""Where TF32 is off: in finite differences below a hundredth of the range of inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, TrainingConfig
from art_sensreg.adversaries import FGSMRS

X = torch.rand(20, 4, generator=torch.Generator().manual_seed(3))
Y = torch.arange(4).repeat(5)
SHARED = JacobianPenalty()


class Recorder(nn.Module):
    """Notes whether TF32 is allowed when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 4), set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return torch.relu(self.layer(x)) * 1.0


@pytest.mark.parametrize(
    ("penalties", "adversary", "high", "off"),
    [
        ([SensitivityPenalty(sigma=0.005, layers="logits"), SHARED], None, 1.0, True),
        ([SensitivityPenalty(sigma=(0.005, 0.3), layers="logits")], None, 1.0, True),
        ([JacobianPenalty(sigma=0.005)], None, 1.0, True),
        ([SensitivityPenalty(sigma=0.3, layers="logits")], None, 255.0, True),
        ([SensitivityPenalty(layers="logits")], FGSMRS(eps=0.004, pair="adversarial"), 1.0, True),
        ([SensitivityPenalty(sigma=0.01, layers="logits"), SHARED], None, 1.0, False),
        ([JacobianPenalty(estimator="projection")], None, 1.0, False),
        ([], None, 1.0, False),
    ],
)
def test_in_training(penalties: Any, adversary: Any, high: float, off: bool):
    from art_sensreg import SensRegTrainer

    model = Recorder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (4,), 4, optimizer, clip_values=(0, high), device_type="gpu"
    )
    steps: list[Any] = []

    class Steps:
        def on_start(self, state: Any) -> None:
            model.seen.clear()

        def on_step(self, state: Any) -> None:
            steps.append(set(model.seen))

    config = TrainingConfig(seed=0, callbacks=[Steps()], on_catastrophic_overfitting="ignore")
    trainer = SensRegTrainer(classifier, penalties, config, adversary)
    torch.set_float32_matmul_precision("high")
    try:
        trainer.fit(X.numpy(), Y.numpy(), batch_size=20, nb_epochs=1, verbose=False)
        assert steps == [{("highest", False)} if off else {("high", True)}]
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("sigma", "off"), [(0.001, True), (0.1, False)])
def test_a_penalty_alone(sigma: float, off: bool):
    model = Recorder().to("cuda")
    torch.set_float32_matmul_precision("high")
    try:
        model.seen.clear()
        SensitivityPenalty(sigma=sigma, layers="logits")(model, X.to("cuda"))
        assert (("highest", False) in model.seen) == off
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
