"""Traps on the way of a training run: each gave a wrong result without a word."""

import copy
import random
import signal

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints
from tests.conftest import same_weights, weights_of

PENALTIES = [SensitivityPenalty(), JacobianPenalty()]


class Stop(Callback):
    def __init__(self, after):
        self.after = after

    def on_step(self, state):
        if state.total_steps == self.after:
            raise InterruptedError


def fit(classifier, digits, folder=None, penalties=PENALTIES, epochs=3, resume=False, scheduler=None, **config):
    trainer = SensRegTrainer(classifier, list(penalties), TrainingConfig(**{"seed": 0, "batch_size": 50, **config}))
    x, y = digits.x_train[:200], digits.y_train[:200]
    trainer.fit(x, y, nb_epochs=epochs, checkpoint_dir=folder, resume=resume, scheduler=scheduler, verbose=False)
    return trainer


def of(model, loss=None, **options):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss = loss or nn.CrossEntropyLoss()
    settings = {"optimizer": optimizer, "clip_values": (0.0, 1.0), "device_type": "cpu", **options}
    return SensRegClassifier(model, loss, (1, 8, 8), 10, **settings)


@pytest.mark.parametrize("own_layout", [False, True])
def test_channels_last_weights_resume_bit_for_bit(make_classifier, digits, tmp_path, own_layout):
    def classifier():
        made = make_classifier("cnn-small")
        if own_layout:
            made.model.to(memory_format=torch.channels_last)
        return made

    config = {"channels_last": not own_layout, "checkpoint_every": 3}
    whole = fit(classifier(), digits, **config)
    with pytest.raises(InterruptedError):
        fit(classifier(), digits, tmp_path, callbacks=[Stop(7)], **config)
    resumed = fit(classifier(), digits, tmp_path, resume=True, **config)
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))
    assert resumed.classifier.optimizer.param_groups[0]["fused"] is None


class TrainingNoise(nn.Module):
    def forward(self, x):
        return x + 0.5 * torch.randn_like(x) if self.training else x


def test_a_model_that_was_used_before_trains_as_a_new_one(digits):
    def run(used):
        torch.manual_seed(0)
        classifier = of(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), TrainingNoise(), nn.ReLU(), nn.Linear(32, 10)))
        if used:
            classifier.predict(digits.x_test[:2])  # leaves it in evaluation mode
        return weights_of(fit(classifier, digits).classifier)

    assert same_weights(run(False), run(True))


def test_preparing_leaves_the_mode_alone(make_classifier, digits):
    classifier = make_classifier()
    classifier.model.eval()
    with pytest.raises(ValueError, match="layers"):
        fit(classifier, digits, penalties=[SensitivityPenalty(layers=["nothing"])])
    assert not classifier.model.training


def first_pixels(generator, digits, epochs=2):
    """The identity of the images, in the order in which a model in training sees them."""
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][:, 0, 0, 0].tolist()) if torch.is_grad_enabled() else None
    )

    class Start(Callback):
        def on_start(self, state):
            seen.clear()  # before, the model was tried out

    of(model).fit_generator(generator, nb_epochs=epochs, config=TrainingConfig(seed=0, callbacks=[Start()]))
    return [[round(pixel * 1000) for pixel in batch] for batch in seen]


def test_an_epoch_of_a_generator_is_each_image_once(digits):
    x = np.zeros((100, 1, 8, 8), dtype=np.float32)
    x[:, 0, 0, 0] = np.arange(100) / 1000
    y = np.arange(100) % 10
    data = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for generator, expected in [
        (NumpyDataGenerator(x, y, batch_size=32), [0, 32, 64] * 2),
        (NumpyDataGenerator(x, y, batch_size=32, drop_remainder=False), [0, 32, 64, 96] * 2),
        (PyTorchDataGenerator(DataLoader(data, 32, drop_last=True), size=100, batch_size=32), [0, 32, 64] * 2),
        (DataLoader(data, 32), [0, 32, 64, 96] * 2),
    ]:
        assert [batch[0] for batch in first_pixels(generator, digits)] == expected


@pytest.mark.parametrize("kind", ["loader", "numpy"])
def test_a_shuffled_loader_follows_the_seed_and_resumes(make_classifier, digits, tmp_path, kind):
    x, y = digits.x_train[:200], digits.y_train[:200]

    def trained(seed=0, folder=None, resume=False, **config):
        loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=50, shuffle=True)
        generator = loader if kind == "loader" else NumpyDataGenerator(x, y, batch_size=50, shuffle=True)
        classifier = make_classifier()
        torch.rand(np.random.randint(1, 9))
        trainer = SensRegTrainer(classifier, PENALTIES, TrainingConfig(seed=seed, **config))
        trainer.fit_generator(generator, nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
        return weights_of(classifier)

    whole = trained()
    assert same_weights(whole, trained())
    assert not same_weights(whole, trained(seed=1))
    with pytest.raises(InterruptedError):
        trained(folder=tmp_path, callbacks=[Stop(7)])
    assert same_weights(whole, trained(folder=tmp_path, resume=True))


def test_the_seed_of_a_loader_does_not_leak(make_classifier, digits):
    def drawn_after(outer):
        np.random.seed(outer)
        random.seed(outer)
        generator = NumpyDataGenerator(digits.x_train[:100], digits.y_train[:100], batch_size=50, shuffle=True)
        make_classifier().fit_generator(generator, nb_epochs=2, seed=0)
        return np.random.rand(), random.random()

    first, second = drawn_after(1), drawn_after(2)
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_a_penalty_cannot_take_the_name_of_an_entry_of_the_history(make_classifier, digits):
    class Skipped:
        weight, name = 1.0, "skipped"

        def __call__(self, model, x, y):
            return model(x).sum() * 0

    trainer = fit(make_classifier(), digits, penalties=[Skipped()], on_nonfinite="skip")
    assert trainer.history[0]["skipped"] == 0
    assert trainer.history[0]["skipped_2"] == 0


def test_a_one_cycle_schedule_resumes_with_the_same_objects(make_classifier, digits, tmp_path):
    def one_cycle(classifier, steps=12):
        return schedulers.OneCycleLR(classifier.optimizer, 1e-2, total_steps=steps)

    whole = make_classifier()
    fit(whole, digits, scheduler=one_cycle(whole))
    classifier = make_classifier()
    scheduler = one_cycle(classifier)
    with pytest.raises(InterruptedError):
        fit(classifier, digits, tmp_path, scheduler=scheduler, callbacks=[Stop(6)])
    fit(classifier, digits, tmp_path, scheduler=scheduler, resume=True)
    assert same_weights(weights_of(classifier), weights_of(whole))
    longer = make_classifier()
    with pytest.raises(ValueError, match=r"scheduler's `total_steps` is 12 in the checkpoint; expected 20"):
        fit(longer, digits, tmp_path, scheduler=one_cycle(longer, 20), resume=True, epochs=5)


def test_what_changes_the_weights_belongs_to_a_run(make_classifier, digits, tmp_path):
    def run(loss=None, resume=True, rate=3e-3, step=5, **options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        classifier = of(model, loss, **options)
        classifier._optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": rate}], lr=1e-3)
        scheduler = schedulers.StepLR(classifier.optimizer, step)
        fit(classifier, digits, tmp_path, epochs=1, resume=resume, scheduler=scheduler)

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


def test_numbers_of_numpy_are_numbers():
    config = TrainingConfig(seed=np.int64(3), batch_size=np.int32(8), ema=np.float64(0.5), device=torch.device("cpu"))
    assert eval(repr(config)) == config == TrainingConfig(seed=3, batch_size=8, ema=0.5, device="cpu")


@pytest.mark.usefixtures("interruptible")
def test_a_signal_after_the_last_step_is_obeyed(make_classifier, digits, tmp_path):
    class Late(Callback):
        def on_epoch(self, state):
            if state.epoch == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(make_classifier(), digits, tmp_path, callbacks=[Late()])
    assert list_checkpoints(tmp_path)[0].name == "checkpoint-000000012.safetensors"


def root_at_zero(model, x, y):
    return (model(x) * 0).pow(2).sum().sqrt()


def test_a_gradient_that_is_not_finite_stops_before_the_step(make_classifier, digits):
    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(FloatingPointError, match=r"The term 'gradient' is nan in epoch 1, step 1.*before this step"):
        fit(classifier, digits, penalties=[root_at_zero])
    assert same_weights(before, weights_of(classifier))
    with pytest.raises(FloatingPointError, match=r"3 steps were left out before it"):
        fit(classifier, digits, penalties=[root_at_zero], on_nonfinite="skip", max_skipped=3)
    assert same_weights(before, weights_of(classifier))


class Hardest(nn.CrossEntropyLoss):
    """The mean over the hardest tenth of a batch: not that of its parts."""

    def forward(self, logits, y):
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        return losses.topk(max(len(losses) // 10, 1)).values.mean()


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_what_does_not_treat_rows_alone_is_not_computed_in_parts(digits):
    x = torch.from_numpy(digits.x_train[:8])

    def examples_at_once(model, loss=None):
        objective = Objective(PENALTIES, loss)
        objective.prepare(model, x)
        return objective.examples_at_once(1000)

    layers = [nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10)]
    assert examples_at_once(nn.Sequential(*layers)) == 50
    assert examples_at_once(nn.Sequential(*layers), Hardest()) is None
    assert examples_at_once(nn.Sequential(*layers, Centred())) is None
    assert examples_at_once(nn.Sequential(*layers, nn.Dropout())) is None
    assert examples_at_once(nn.Sequential(*layers, nn.BatchNorm1d(10))) is None


def test_layers_may_be_unfrozen_on_the_way(make_classifier, digits):
    classifier = make_classifier()
    first = next(classifier.model.parameters())
    first.requires_grad_(False)
    before = first.detach().clone()

    class Unfreeze(Callback):
        def on_epoch(self, state):
            assert torch.equal(first, before)
            first.requires_grad_(True)
            state.stop = state.epoch == 2 or state.stop

    class Check(Unfreeze):
        def on_epoch(self, state):
            if state.epoch == 1:
                super().on_epoch(state)

    fit(classifier, digits, penalties=[JacobianPenalty(estimator="projection")], callbacks=[Check()])
    assert not torch.equal(first, before)


def test_a_run_that_a_callback_ended_stays_ended(make_classifier, digits, tmp_path):
    class Enough(Callback):
        def on_epoch(self, state):
            state.stop = state.epoch == 2

    ended = fit(make_classifier(), digits, tmp_path, epochs=5, callbacks=[Enough()])
    again = fit(make_classifier(), digits, tmp_path, epochs=5, callbacks=[Enough()], resume=True)
    assert len(ended.history) == len(again.history) == 2
    assert same_weights(weights_of(ended.classifier), weights_of(again.classifier))
    assert len(fit(make_classifier(), digits, tmp_path, epochs=6, resume=True).history) == 6


def test_what_cannot_be_stored_is_an_error_before_training(make_classifier, digits, tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"when": object()}

    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(TypeError, match="callbacks/0/when"):
        fit(classifier, digits, tmp_path, callbacks=[Odd()])
    assert same_weights(before, weights_of(classifier))


def test_unusual_loaders(make_classifier, digits):
    trainer = SensRegTrainer(make_classifier(), [], TrainingConfig(seed=0))
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0)), batch_size=5)
    with pytest.raises(ValueError, match=r"`generator` is a DataLoader of 0 batches with no batch in an epoch"):
        trainer.fit_generator(empty, nb_epochs=1, verbose=False)
    half = TensorDataset(torch.from_numpy(digits.x_train[:20]).bfloat16(), torch.from_numpy(digits.y_train[:20]))
    trainer.fit_generator(DataLoader(half, batch_size=10), nb_epochs=1, verbose=False)
    assert len(trainer.history) == 1


def test_a_double_model_with_a_loss_of_probabilities(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid()).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = SensRegClassifier(
        model, nn.BCELoss(), (1, 8, 8), 2, optimizer=optimizer, penalties=PENALTIES, device_type="cpu"
    )
    before = copy.deepcopy(model.state_dict())
    classifier.fit(digits.x_train[:40], digits.y_train[:40] % 2, nb_epochs=1, seed=0)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
