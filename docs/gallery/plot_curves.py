"""
Robust accuracy against eps
===========================

A defence is not a number but a curve. This script trains the same network without penalties, with sensitivity
regularisation alone, and with sensitivity and Jacobian regularisation, and attacks each with projected gradient descent
of growing size.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from art_sensreg import SensRegClassifier, presets
from art_sensreg.attacks import ProjectedAscent
from art_sensreg.datasets import load_dataset
from art_sensreg.models import build_model
from art_sensreg.utils.stats import wilson_interval

digits = load_dataset("digits")
x, y = digits.x_test[:150], digits.y_test[:150]


def train(penalties):
    torch.manual_seed(0)
    model = build_model("mlp", digits.input_shape, digits.nb_classes)
    classifier = SensRegClassifier(
        model,
        torch.nn.CrossEntropyLoss(),
        digits.input_shape,
        digits.nb_classes,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        clip_values=(0.0, 1.0),
        penalties=penalties,
    )
    classifier.fit(digits.x_train, digits.y_train, nb_epochs=15, seed=0, verbose=False)
    return classifier


classifiers = {
    "none": train([]),
    "SR": train(presets.sr("digits")),
    "SR and JR": train(presets.sr_jr("digits")),
}

# %%
# The attack is given the true labels, and what it returns is scored by the classifier itself. With so few images the
# interval of each accuracy is wide, so it is drawn too.

sizes = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3]


def correct(classifier, eps):
    images = x
    if eps > 0:
        images = ProjectedAscent(classifier, eps=eps, eps_step=eps / 5, max_iter=20).generate(x, y)
    return int((classifier.predict(images).argmax(axis=1) == y).sum())


figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name, classifier in classifiers.items():
    counts = [correct(classifier, eps) for eps in sizes]
    low, high = np.transpose([wilson_interval(count, len(x)) for count in counts])
    (line,) = axes.plot(sizes, np.divide(counts, len(x)), marker="o", label=name)
    axes.fill_between(sizes, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
axes.set(xlabel="eps (L-inf)", ylabel="accuracy under attack", ylim=(0, 1), title="Digits, PGD with 20 steps")
axes.legend()
plt.show()

# %%
# One attack gives an upper bound. The benchmark runs many and reports the worst case over them, image by image.
