"""
An audit of a defence that hides its gradient
=============================================

Rounding the input to a few levels makes the gradient zero: gradient attacks do not move, and the accuracy under attack
looks excellent. The audit says why that means nothing, and what the same network does once the attack has a gradient to
follow.
"""

import matplotlib.pyplot as plt
import torch

from art_sensreg import SensRegClassifier, audit
from art_sensreg.attacks import BPDA, ProjectedAscent
from art_sensreg.datasets import load_dataset
from art_sensreg.models import build_model

digits = load_dataset("digits")
x, y = digits.x_test[:100], digits.y_test[:100]


def classifier_of(model):
    return SensRegClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        digits.input_shape,
        digits.nb_classes,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        clip_values=(0.0, 1.0),
        penalties=[],
    )


torch.manual_seed(0)
network = build_model("mlp", digits.input_shape, digits.nb_classes)
classifier_of(network).fit(digits.x_train, digits.y_train, nb_epochs=10, seed=0, verbose=False)


def squeeze(images):
    return torch.round(images * 7) / 7


class Squeezed(torch.nn.Module):
    """The network behind the rounding, as it would be deployed."""

    def __init__(self):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(squeeze(images))


as_deployed = classifier_of(Squeezed())
attackable = classifier_of(BPDA(network, squeeze))  # the same outputs, with a gradient through the rounding

# %%
# The accuracy under the same attack, of the same function:

accuracy = {}
for name, classifier in {"gradient as it is": as_deployed, "straight-through gradient": attackable}.items():
    adversarial = ProjectedAscent(classifier, eps=0.1, eps_step=0.02, max_iter=20).generate(x, y)
    accuracy[name] = float((as_deployed.predict(adversarial).argmax(axis=1) == y).mean())

figure, axes = plt.subplots(figsize=(6, 2), layout="constrained")
axes.barh(list(accuracy), list(accuracy.values()))
axes.set(xlim=(0, 1), xlabel="accuracy under PGD, L-inf 0.1")
plt.show()

# %%
# The audit of what is deployed. A few of its checks, in the quick form; each failure comes with what to do.

checks = ["deterministic", "gradients_not_zero", "gradients_match_differences", "white_box_beats_black_box"]
report = audit(as_deployed, x, y, eps=0.1, norm="linf", seed=0, checks=checks, quick=True)
print(report)
