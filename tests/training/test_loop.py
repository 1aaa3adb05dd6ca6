"""The training loop against training written by hand."""

import copy

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.utils.rng import derive_seed
from tests.conftest import same_weights, weights_of
from tests.training.helpers import PENALTIES, classifier_around, fit_digits, fit_into


def test_a_device_can_be_named(make_classifier, digits):
    assert same_weights(
        weights_of(fit_digits(make_classifier(), digits, device=torch.device("cpu", 0)).classifier),
        weights_of(fit_digits(make_classifier(), digits).classifier),
    )


@pytest.mark.gpu
def test_training_moves_the_classifier_to_the_device(make_classifier, digits):
    classifier = make_classifier("cnn-small", device_type="cpu")
    fit_digits(classifier, digits, device="cuda:0", precision="bfloat16", channels_last=True)
    assert classifier.device == torch.device("cuda:0")
    assert next(classifier.model.parameters()).device == classifier.device
    assert classifier.predict(digits.x_test[:5]).shape == (5, 10)


def test_compiling_double_backward_is_refused(make_classifier, digits):
    with pytest.raises(ValueError, match=r"`compile` is True with a penalty that needs double backward"):
        fit_digits(make_classifier(), digits, [JacobianPenalty(estimator="projection")], compile=True)


def test_penalties_of_a_whole_batch_are_not_accumulated(make_classifier, digits):
    penalties = [SensitivityPenalty(layers="hidden+logits", top_layers=1)]
    with pytest.raises(
        ValueError, match=r"`accumulate` is 2 with SensitivityPenalty\(.* needs the whole batch at once"
    ):
        fit_digits(make_classifier(), digits, penalties, accumulate=2)


class TrainingNoise(nn.Module):
    def forward(self, x):
        return x + 0.5 * torch.randn_like(x) if self.training else x


def test_a_model_that_was_used_before_trains_as_a_new_one(digits):
    def run(used):
        torch.manual_seed(0)
        classifier = classifier_around(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 32), TrainingNoise(), nn.ReLU(), nn.Linear(32, 10))
        )
        if used:
            classifier.predict(digits.x_test[:2])  # leaves it in evaluation mode
        return weights_of(fit_into(classifier, digits).classifier)

    assert same_weights(run(False), run(True))


def test_preparing_leaves_the_mode_alone(make_classifier, digits):
    classifier = make_classifier()
    classifier.model.eval()
    with pytest.raises(ValueError, match="layers"):
        fit_into(classifier, digits, penalties=[SensitivityPenalty(layers=["nothing"])])
    assert not classifier.model.training


def test_a_penalty_cannot_take_the_name_of_an_entry_of_the_history(make_classifier, digits):
    class Skipped:
        weight, name = 1.0, "skipped"

        def __call__(self, model, x, y):
            return model(x).sum() * 0

    trainer = fit_into(make_classifier(), digits, penalties=[Skipped()], on_nonfinite="skip")
    assert trainer.history[0]["skipped"] == 0
    assert trainer.history[0]["skipped_2"] == 0


def test_a_double_model_with_a_loss_of_probabilities(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid()).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = SensRegClassifier(
        model, nn.BCELoss(), (1, 8, 8), 2, optimizer=optimizer, penalties=PENALTIES, device_type="cpu"
    )
    before = copy.deepcopy(model.state_dict())
    classifier.fit(digits.x_train[:40], digits.y_train[:40] % 2, nb_epochs=1, seed=0)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def fitted(make_classifier, digits, config=None, penalties=(), name="mlp", n=200, **kwargs):
    classifier = make_classifier(name)
    trainer = SensRegTrainer(classifier, list(penalties), config or TrainingConfig(seed=0))
    trainer.fit(digits.x_train[:n], digits.y_train[:n], **{"nb_epochs": 2, "verbose": False, **kwargs})
    return trainer


def plain_torch(make_classifier, digits, n=200, epochs=2, seed=0, batch_size=128):
    """Training as one writes it by hand, with the order of the batches of the same seed."""
    classifier = make_classifier()
    classifier.optimizer.param_groups[0]["fused"] = True
    x, y = torch.from_numpy(digits.x_train[:n]), torch.from_numpy(digits.y_train[:n])
    for epoch in range(1, epochs + 1):
        order = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        for rows in torch.randperm(n, generator=order).split(batch_size):
            loss = torch.nn.functional.cross_entropy(classifier.model(x[rows]), y[rows])
            classifier.optimizer.zero_grad()
            loss.backward()
            classifier.optimizer.step()
    return weights_of(classifier)


@pytest.mark.parametrize("penalties", [[], [SensitivityPenalty(weight=0), JacobianPenalty(weight=0)]])
def test_without_penalties_it_is_plain_training_bit_for_bit(make_classifier, digits, penalties):
    trainer = fitted(make_classifier, digits, penalties=penalties)
    assert same_weights(weights_of(trainer.classifier), plain_torch(make_classifier, digits))


@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
def test_a_seed_decides_everything(make_classifier, digits, name):
    def run(seed):
        return weights_of(fitted(make_classifier, digits, TrainingConfig(seed=seed), PENALTIES, name).classifier)

    first = run(1)
    torch.rand(3)
    assert same_weights(first, run(1))
    assert not same_weights(first, run(2))


def test_without_a_seed_torchs_own_counts_and_the_global_state_is_not_reset(make_classifier, digits):
    def run():
        return weights_of(fitted(make_classifier, digits, TrainingConfig(), PENALTIES).classifier)

    first = run()  # make_classifier seeds torch's global generator each time
    assert same_weights(first, run())
    assert len({torch.rand(1).item() for _ in range(3)}) == 3


def test_history(make_classifier, digits):
    validation = (digits.x_test[:50], digits.y_test[:50])
    trainer = fitted(make_classifier, digits, penalties=PENALTIES, nb_epochs=3, validation_data=validation)
    assert [record["epoch"] for record in trainer.history] == [1, 2, 3]
    for record in trainer.history:
        assert list(record) == [
            "epoch", "loss", "base", "sensitivity", "jacobian", "accuracy", "learning_rate", "val_loss", "val_accuracy",
            "seconds",
        ]  # fmt: skip
        assert record["loss"] == pytest.approx(
            record["base"] + record["sensitivity"] + 0.1 * record["jacobian"], rel=1e-5
        )
        assert 0 <= record["accuracy"] <= 1
    logits = torch.from_numpy(trainer.get_classifier().predict(validation[0]))
    labels = torch.from_numpy(validation[1])
    assert trainer.history[-1]["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert trainer.history[-1]["val_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4
    )
    assert trainer.history[-1]["accuracy"] > trainer.history[0]["accuracy"]


def test_one_progress_bar_shows_the_terms_and_quiet_mode_shows_nothing(make_classifier, digits, capfd):
    fitted(make_classifier, digits, penalties=PENALTIES, verbose=False)
    assert capfd.readouterr() == ("", "")
    fitted(make_classifier, digits, penalties=PENALTIES, verbose=True)
    shown = capfd.readouterr().err
    assert shown.count("100%") >= 1
    for term in ("loss=", "sensitivity=", "jacobian=", "accuracy="):
        assert term in shown.replace("\r", "\n").strip().splitlines()[-1]


def test_evaluation_mode_training_leaves_batch_norm_alone(make_classifier, digits):
    classifier = make_classifier(norm_layer="batch", penalties=PENALTIES)
    before = [buffer.clone() for buffer in classifier.model.buffers()]
    classifier.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=1, training_mode=False)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.model.buffers(), strict=True))


def test_batch_norm_survives_a_generator_with_a_batch_of_one_row(make_classifier, digits):
    x, y = torch.from_numpy(digits.x_train[:21]), torch.from_numpy(digits.y_train[:21])
    generator = PyTorchDataGenerator(DataLoader(TensorDataset(x, y), batch_size=10), size=21, batch_size=10)
    classifier = make_classifier(norm_layer="batch", penalties=PENALTIES)
    classifier.fit_generator(generator, nb_epochs=2)
    assert len(classifier.history) == 2


def test_frozen_batch_norm_stays_frozen_in_fine_tuning(make_classifier, digits):
    classifier = make_classifier("cnn-small", norm_layer="batch", penalties=PENALTIES)
    norms = [
        module for module in classifier.model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    for module in norms[:2]:
        module.requires_grad_(False)
    before = [module.running_mean.clone() for module in norms]
    classifier.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=1)
    moved = [not torch.equal(mean, module.running_mean) for mean, module in zip(before, norms, strict=True)]
    assert moved == [False, False, True, True]


@pytest.mark.gpu
def test_training_on_a_gpu(make_classifier, digits):
    classifier = make_classifier("cnn-small", device_type="gpu", penalties=PENALTIES)
    classifier.fit(digits.x_train, digits.y_train, nb_epochs=5, seed=0)
    assert classifier.device.type == "cuda"
    assert classifier.history[-1]["accuracy"] > 0.6
    assert np.isfinite(classifier.loss_gradient(digits.x_test[:5], np.eye(10)[digits.y_test[:5]])).all()
