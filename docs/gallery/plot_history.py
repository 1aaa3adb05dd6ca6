"""
What happens during training
============================

The history of a run has the loss, the value of each penalty, and with validation data the accuracy on these, clean and
under a short attack. ``history_frame`` makes a table of pandas of it.
"""

import matplotlib.pyplot as plt
import torch

from art_sensreg import SensRegClassifier, SensRegTrainer, TrainingConfig, presets
from art_sensreg.datasets import load_dataset
from art_sensreg.models import build_model
from art_sensreg.training import ValidationAttack, history_frame

digits = load_dataset("digits").with_validation_as_test()  # held-out training images
torch.manual_seed(0)
model = build_model("mlp", digits.input_shape, digits.nb_classes)
classifier = SensRegClassifier(
    model,
    torch.nn.CrossEntropyLoss(),
    digits.input_shape,
    digits.nb_classes,
    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
    clip_values=(0.0, 1.0),
)
config = TrainingConfig(seed=0, nb_epochs=15, validation_attack=ValidationAttack(eps=0.1))
trainer = SensRegTrainer(classifier, presets.sr_jr("digits"), config)
trainer.fit(digits.x_train, digits.y_train, validation_data=(digits.x_test, digits.y_test), verbose=False)
frame = history_frame(trainer.history)
frame[["loss", "base", "sensitivity", "jacobian", "val_accuracy", "val_robust_accuracy"]].tail(3).round(3)

# %%
# The penalties rise while the network begins to tell the classes apart, and are then held where they are, as the base
# loss falls. The attack on the validation images is short: it ranks epochs, and is no claim of robustness.

figure, (terms, accuracies) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
frame[["base", "sensitivity", "jacobian"]].plot(ax=terms, logy=True, ylabel="unweighted value")
frame[["val_accuracy", "val_robust_accuracy"]].plot(ax=accuracies, ylim=(0, 1), ylabel="accuracy on validation images")
plt.show()
