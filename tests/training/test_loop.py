import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.training.batches import TensorBatches
from art_sensreg.training.distributed import Processes
from art_sensreg.utils.rng import derive_seed
from tests.conftest import same_weights, weights_of

PENALTIES = [SensitivityPenalty(), JacobianPenalty()]


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


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda optimizer: schedulers.StepLR(optimizer, 1), 2),
        (lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 2), 2),
        (lambda optimizer: schedulers.LambdaLR(optimizer, lambda epoch: 1 / (epoch + 1)), 2),
        (lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=0), 2),
        (lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, mode="max"), 2),
        (lambda optimizer: schedulers.OneCycleLR(optimizer, 1e-2, total_steps=8), 8),
        (lambda optimizer: schedulers.OneCycleLR(optimizer, 1e-2, total_steps=2), 2),
        (lambda optimizer: schedulers.CyclicLR(optimizer, 1e-4, 1e-2, cycle_momentum=False), 8),
        (
            lambda optimizer: schedulers.SequentialLR(
                optimizer, [schedulers.ConstantLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)], [1]
            ),
            2,
        ),
    ],
)
def test_any_scheduler(make_classifier, digits, make, steps):
    classifier = make_classifier()
    scheduler = make(classifier.optimizer)
    start = scheduler.last_epoch
    trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0))
    trainer.fit(
        digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=50, scheduler=scheduler, verbose=False
    )
    assert scheduler.last_epoch - start == steps


def test_the_interval_of_a_scheduler_can_be_given(make_classifier, digits):
    classifier = make_classifier()
    scheduler = schedulers.StepLR(classifier.optimizer, 1000)
    trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0, scheduler_interval="step"))
    trainer.fit(
        digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=50, scheduler=scheduler, verbose=False
    )
    assert scheduler.last_epoch == 8


def test_a_plateau_cannot_be_watched_every_step(make_classifier, digits):
    classifier = make_classifier()
    scheduler = schedulers.ReduceLROnPlateau(classifier.optimizer)
    trainer = SensRegTrainer(classifier, [], TrainingConfig(scheduler_interval="step"))
    with pytest.raises(ValueError, match=r"`scheduler_interval` is 'step' and `scheduler` a ReduceLROnPlateau"):
        trainer.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1, scheduler=scheduler, verbose=False)


def test_a_scheduler_that_is_too_short_is_refused_before_training(make_classifier, digits):
    classifier = make_classifier()
    scheduler = schedulers.OneCycleLR(classifier.optimizer, 1e-2, total_steps=5)
    before = weights_of(classifier)
    with pytest.raises(ValueError, match=r"`scheduler` has 5 of 5 steps left; expected at least 8"):
        classifier.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=50, scheduler=scheduler)
    assert same_weights(before, weights_of(classifier))


def test_every_row_once_per_epoch():
    data = torch.arange(10.0)[:, None]
    batches = TensorBatches(data, torch.arange(10), batch_size=3)

    def rows(seed, first=0):
        return torch.cat([x for x, _, _ in batches.epoch(seed, first, Processes())]).flatten()

    assert sorted(rows(0).tolist()) == sorted(rows(1).tolist()) == list(range(10))
    assert not torch.equal(rows(0), rows(1))
    assert torch.equal(rows(0, first=2), rows(0)[6:])

    def sizes(batch_size, **options):
        batches = TensorBatches(data, data, batch_size, **options)
        found = [len(x) for x, _, _ in batches.epoch(0, 0, Processes())]
        assert len(batches) == len(found)
        return found

    assert sizes(3) == [3, 3, 3, 1]
    assert sizes(3, drop_last=True) == [3, 3, 3]
    assert sizes(3, least=2) == [3, 3, 4]
    assert sizes(3, drop_last=True, least=2) == [3, 3, 3]
    assert sizes(100, drop_last=True) == [10]


def test_batch_norm_survives_a_last_batch_of_one_row(make_classifier, digits):
    classifier = make_classifier(norm_layer="batch", penalties=PENALTIES)
    classifier.fit(digits.x_train[:101], digits.y_train[:101], batch_size=50, nb_epochs=1)
    assert len(classifier.history) == 1


def test_a_nonfinite_loss_stops_before_the_step(make_classifier, digits):
    classifier = make_classifier()
    steps = []

    def exploding(model, x, y):
        steps.append(weights_of(classifier))
        return model(x).sum() * (float("nan") if len(steps) == 3 else 0.0)

    trainer = SensRegTrainer(classifier, [exploding], TrainingConfig(seed=0))
    with pytest.raises(FloatingPointError, match=r"The term 'exploding' is nan in epoch 2, step 1"):
        trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=5, verbose=False)
    assert same_weights(steps[-1], weights_of(classifier))


def test_gradient_clipping(make_classifier, digits):
    classifier = make_classifier()
    norms = []
    classifier.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([p.grad.flatten() for p in classifier.model.parameters()]).norm().item())
    )
    trainer = SensRegTrainer(classifier, [], TrainingConfig(max_grad_norm=0.1))
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=1, verbose=False)
    assert norms == pytest.approx([0.1] * len(norms), rel=1e-3)


def test_generators(make_classifier, digits):
    x, y = torch.from_numpy(digits.x_train[:100]), torch.nn.functional.one_hot(torch.from_numpy(digits.y_train[:100]))
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    generator = PyTorchDataGenerator(loader, size=100, batch_size=32)
    validation = (digits.x_test, digits.y_test)
    classifier = make_classifier(penalties=PENALTIES)
    classifier.fit_generator(generator, nb_epochs=3, validation_data=validation, seed=0)
    trainer = SensRegTrainer(make_classifier(), PENALTIES)
    trainer.fit_generator(generator, nb_epochs=30, verbose=False)
    assert [len(classifier.history), len(trainer.history)] == [3, 30]
    assert trainer.history[-1]["accuracy"] > 0.7
    assert "val_accuracy" in classifier.history[0]


def test_wrong_generators(make_classifier, digits):
    classifier = make_classifier()
    x = torch.from_numpy(digits.x_train[:100]) * 2
    bad = PyTorchDataGenerator(
        DataLoader(TensorDataset(x, torch.zeros(100).long()), batch_size=32), size=100, batch_size=32
    )
    before = weights_of(classifier)
    for target, options in ((classifier, {}), (SensRegTrainer(classifier, []), {"verbose": False})):
        with pytest.raises(ValueError, match=r"`x` has values from 0 to 2; expected \[0, 1\]"):
            target.fit_generator(bad, nb_epochs=1, **options)
        with pytest.raises(TypeError, match=r"`generator` is list; expected an art.data_generators.DataGenerator"):
            target.fit_generator([1, 2], nb_epochs=1, **options)
        with pytest.raises(TypeError, match=r"fit_generator\(\) got an unknown keyword argument `epochs`=1"):
            target.fit_generator(bad, epochs=1, **options)
        with pytest.raises(ValueError, match=r"`nb_epochs` is 0"):
            target.fit_generator(bad, nb_epochs=0, **options)
    assert same_weights(before, weights_of(classifier))


def test_evaluation_mode_training_leaves_batch_norm_alone(make_classifier, digits):
    classifier = make_classifier(norm_layer="batch", penalties=PENALTIES)
    before = [buffer.clone() for buffer in classifier.model.buffers()]
    classifier.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=1, training_mode=False)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.model.buffers(), strict=True))


def test_a_numpy_generator_is_checked_whole_before_training(make_classifier, digits):
    x = digits.x_train[:100].copy()
    x[90] = np.nan
    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(ValueError, match=r"`x` has NaN or infinite values in 1 of 100 images"):
        classifier.fit_generator(NumpyDataGenerator(x, digits.y_train[:100], batch_size=10), nb_epochs=1)
    assert same_weights(before, weights_of(classifier))


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
