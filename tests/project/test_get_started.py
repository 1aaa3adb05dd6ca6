"""The README's three lines, applied to a script in the form of ART's own: it trains with penalties, and says if not."""

from __future__ import annotations

import re
import runpy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from art_sensreg import SensRegClassifier
from tests.paths import ROOT

# The parts of that script that the lines stand in.
SCRIPT = """
import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.dense = nn.Conv2d(1, 4, 5, stride=2), nn.Linear(4 * 12 * 12, 10)

    def forward(self, x):
        return self.dense(functional.relu(self.convolution(x)).flatten(1))


rng = np.random.default_rng(0)
x_train, y_train = rng.random((64, 1, 28, 28), dtype=np.float32), np.eye(10)[np.arange(64) % 10]
model = Net()
classifier = PyTorchClassifier(
    model=model,
    clip_values=(0.0, 1.0),
    loss=nn.CrossEntropyLoss(),
    optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
    input_shape=(1, 28, 28),
    nb_classes=10,
)
classifier.fit(x_train, y_train, batch_size=64, nb_epochs=1)
x_adv = FastGradientMethod(estimator=classifier, eps=0.2).generate(x=x_train)
predictions = classifier.predict(x_adv)
"""


def the_lines():
    """The README's diff as pairs of a line and what comes in its place or after it."""
    diff = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1).splitlines()
    old = [line[1:] for line in diff if line.startswith("-")]
    new = [line[1:] for line in diff if line.startswith("+")]
    assert (len(old), len(new)) == (2, 3)
    assert diff.index(f"+{new[2]}") == diff.index("     nb_classes=10,") + 1
    return [(old[0], new[0]), (old[1], new[1]), ("    nb_classes=10,", f"    nb_classes=10,\n{new[2]}")]


def run(tmp_path, lines):
    text = SCRIPT
    for old, new in lines:
        assert text.count(f"{old}\n") == 1
        text = text.replace(f"{old}\n", f"{new}\n")
    (tmp_path / "script.py").write_text(text)
    return SimpleNamespace(**runpy.run_path(str(tmp_path / "script.py")))


def test_the_three_lines_train_with_penalties(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        script = run(tmp_path, the_lines())
    assert isinstance(script.classifier, SensRegClassifier)
    assert {"SensitivityPenalty", "JacobianPenalty"} == {type(each).__name__ for each in script.classifier.penalties}
    (epoch,) = script.classifier.history
    values = {
        name: value for name, value in epoch.items() if "sensitivity" in name.lower() or "jacobian" in name.lower()
    }
    assert len(values) == 2
    assert all(value > 0 for value in values.values())
    assert script.predictions.shape == (64, 10)
    assert 0.1 < np.abs(script.x_adv - script.x_train).max() <= 0.2 + 1e-6


def test_without_the_third_line_a_warning_says_that_nothing_is_defended(tmp_path):
    with pytest.warns(UserWarning, match=r"`penalties=` was not given .*trains like ART's own") as caught:
        script = run(tmp_path, the_lines()[:2])
    assert script.classifier.penalties == ()
    assert any(warning.filename.endswith("script.py") for warning in caught)  # it points at the user's line
