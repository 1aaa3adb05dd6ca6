"""Two runs are compared by everything that the weights depend on."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from art_sensreg import SensitivityPenalty
from art_sensreg.training.checkpoint.folder import list_checkpoints, read_checkpoint, write_checkpoint
from tests.training.checkpoint.helpers import Run, penalty
from tests.training.helpers import PENALTIES, classifier_around, fit_into


def test_what_changes_the_weights_belongs_to_a_run(make_classifier, digits, tmp_path):
    def run(loss=None, resume=True, rate=3e-3, step=5, **options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        classifier = classifier_around(model, loss, **options)
        classifier._optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": rate}], lr=1e-3)
        scheduler = schedulers.StepLR(classifier.optimizer, step)
        fit_into(classifier, digits, tmp_path, epochs=1, resume=resume, scheduler=scheduler)

    run(resume=False)
    run()
    for changed, message in [
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "label_smoothing"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.linspace(0.5, 1, 10))}, "weight"),
        ({"rate": 1e-2}, "optimizer's `group 0.lr` is 0.003 .*expected 0.01"),
        ({"step": 6}, "scheduler's `step_size` is 5"),
        ({"preprocessing": (0.5, 2.0)}, "the weight `model.1.weight` is missing"),
    ]:
        with pytest.raises(ValueError, match=r"is of another run: .*" + message):
            run(**changed)


def test_a_checkpoint_of_another_run_is_refused_naming_the_first_difference(make_classifier, digits, tmp_path):
    fit_into(make_classifier(), digits, tmp_path, epochs=1)

    def again(name="mlp", penalties=PENALTIES, n=200, lr=3e-3, activation="relu", **config):
        classifier = make_classifier(name, lr=lr, activation=activation)
        fit_into(classifier, digits, tmp_path, penalties, n, resume=True, **config)

    cases = [
        ({"name": "cnn-small"}, r"the module `features.0` is Flatten"),
        ({"activation": "gelu"}, r"ReLU\(\) .* expected GELU"),
        ({"batch_size": 10}, r"the setting `batch_size` is 50 in the checkpoint; expected 10"),
        ({"seed": 1}, r"the setting `seed` is 0"),
        ({"n": 150}, r"the training data's `content` is 200 images"),
        ({"penalties": []}, r"the term of the objective `sensitivity` is Sensitivity.* expected none"),
        ({"penalties": [SensitivityPenalty(sigma=0.2)]}, r"is Sensitivity.*sigma=0.3.*expected Sensitivity.*sigma=0.2"),
        ({"lr": 1e-2}, r"the optimizer's `lr` is 0.003"),
    ]
    for changed, message in cases:
        with pytest.raises(
            ValueError, match=r"`resume`: checkpoint-000000004.safetensors is of another run: .*" + message
        ):
            again(**changed)


def test_code_of_another_python_cannot_be_compared(tmp_path):
    Run(penalties=[penalty()]).start(tmp_path)
    path = list_checkpoints(tmp_path)[0]
    step, tree = read_checkpoint(path)
    text = tree["run"].replace("code 3.", "code 2.")
    assert text != tree["run"]
    write_checkpoint(tmp_path, step, {**tree, "run": text}, keep=1)
    Run(penalties=[penalty(2.0)]).start(tmp_path, resume=True)
