"""The settings of `TrainingConfig`, each judged by what it does to a run."""

import copy
import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import WHOLE_BATCH, Objective, Share
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.training import Callback, ValidationAttack
from art_sensreg.training.metrics import correct
from art_sensreg.training.steps import LOW_PRECISION_SIGMA, StepModule
from tests.conftest import same_weights, weights_of

PENALTIES = [SensitivityPenalty(), JacobianPenalty()]


def fit(classifier, digits, penalties=PENALTIES, n=200, epochs=2, validation=False, scheduler=None, **config):
    trainer = SensRegTrainer(classifier, list(penalties), TrainingConfig(**{"seed": 0, "batch_size": 50, **config}))
    x, y = digits.x_train[:n], digits.y_train[:n]
    held_out = (digits.x_test[:100], digits.y_test[:100]) if validation else None
    trainer.fit(x, y, held_out, nb_epochs=epochs, scheduler=scheduler, verbose=False)
    return trainer


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("penalty_fraction", 0, "finite number above 0"),
        ("penalty_fraction", 1.5, "at most 1"),
        ("precision", "float8", "one of float32, bfloat16, float16"),
        ("ema", 1.0, "below 1"),
        ("ema", -0.1, "above 0"),
        ("keep", 0, "at least 1"),
        ("checkpoint_every", 0, "at least 1"),
        ("on_nonfinite", "ignore", "one of stop, skip"),
        ("max_skipped", -1, "at least 0"),
        ("monitor", "val_f1", "one of val_robust_accuracy"),
        ("patience", 0, "at least 1"),
        ("device", "cuda:99", "a torch device of this machine"),
        ("device", "gpu", "a torch device of this machine"),
        ("device", "meta", "a device that holds data"),
    ],
)
def test_values_out_of_range(setting, value, message):
    with pytest.raises(ValueError, match=rf"`{setting}` is .*{message}"):
        TrainingConfig(**{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("callbacks", [3]),
        ("callbacks", Callback),
        ("callbacks", [Callback]),
        ("compile", 1),
        ("restore_best", "yes"),
        ("validation_attack", 0.1),
        ("patience", 1.5),
    ],
)
def test_values_of_a_wrong_type(setting, value):
    with pytest.raises(TypeError, match=rf"`{setting}`"):
        TrainingConfig(**{setting: value})


# --- the noisy part of a batch --------------------------------------------------------------------------------------


def noisy_seen(classifier, digits, **config):
    """The sizes of the batches that the model sees in training mode."""
    sizes = []
    handle = classifier.model.register_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
    )
    fit(classifier, digits, epochs=1, **config)
    handle.remove()
    return sizes


def test_the_cheap_mode_computes_fewer_rows(make_classifier, digits):
    full = noisy_seen(make_classifier("cnn-small"), digits)
    cheap = noisy_seen(make_classifier("cnn-small"), digits, penalty_fraction=0.4)
    assert [rows for rows in full if rows > 20] == [100] * 4  # the others are trials
    assert sum(rows for rows in cheap if rows > 20) == 4 * 70


@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
@pytest.mark.parametrize("norm_layer", ["none", "batch"])
def test_the_cheap_mode_is_the_penalty_of_the_first_rows(make_classifier, digits, name, norm_layer):
    model = make_classifier(name, norm_layer=norm_layer).model.double().eval()
    x, y = torch.from_numpy(digits.x_train[:20]).double(), torch.from_numpy(digits.y_train[:20])
    objective = Objective([SensitivityPenalty(scale="relative", probes=2), JacobianPenalty()])
    objective.prepare(model, x)
    probes = Probes(0, torch.device("cpu"))
    cheap, logits = objective(model, x, y, probes.at(3), Share(noisy_rows=8))
    full, _ = objective(model, x[:8], y[:8], probes.at(3))
    for penalty in ("sensitivity", "jacobian"):
        assert cheap[penalty].item() == pytest.approx(full[penalty].item(), rel=1e-9)
    assert torch.allclose(logits, model(x))
    loss = cheap["base"] + cheap["sensitivity"] + 0.1 * cheap["jacobian"]
    assert cheap["loss"].item() == pytest.approx(loss.item(), rel=1e-12)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(make_classifier, digits, monkeypatch):
    def trained(numbers, **config):
        monkeypatch.setattr("art_sensreg.training.steps._CACHED_NUMBERS", numbers)
        return fit(make_classifier("cnn-small"), digits, **config)

    for fraction in (1.0, 0.6):
        whole = trained(10**9, penalty_fraction=fraction)
        parts = trained(1, penalty_fraction=fraction)  # the least: 16 rows
        for a, b in zip(whole.history, parts.history, strict=True):
            for name in ("loss", "base", "sensitivity", "jacobian", "accuracy"):
                assert a[name] == pytest.approx(b[name], rel=2e-3), name


# --- precision and devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_penalties_in_low_precision_are_close_to_those_in_float32(make_classifier, digits, precision):
    classifier = make_classifier("cnn-small")
    fit(classifier, digits, n=1000, epochs=8)
    x, y = torch.from_numpy(digits.x_test), torch.from_numpy(digits.y_test)

    def terms(kind, sigma):
        objective = Objective([SensitivityPenalty(sigma=sigma), JacobianPenalty()])
        objective.prepare(classifier.model, x)
        module = StepModule(classifier.model, objective, kind)
        return module(x, y, Probes(0, torch.device("cpu")).at(0), WHOLE_BATCH)[0]

    exact, rounded = terms("float32", 0.3), terms(precision, 0.3)
    for name in ("sensitivity", "jacobian"):
        assert rounded[name].item() == pytest.approx(exact[name].item(), rel=0.02)
        assert rounded[name].dtype == torch.float32
    assert rounded["base"] != exact["base"]  # it was in low precision
    small = LOW_PRECISION_SIGMA / 2
    pairs = zip(terms("float32", small).values(), terms(precision, small).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_low_precision(make_classifier, digits, precision):
    classifier = make_classifier()
    trainer = fit(classifier, digits, n=600, epochs=8, precision=precision, max_grad_norm=5.0)
    assert trainer.history[-1]["accuracy"] > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in classifier.model.parameters())


def test_the_threshold_is_in_units_of_the_input_range():
    penalties = [SensitivityPenalty(sigma=LOW_PRECISION_SIGMA * 10)]
    bounds = torch.tensor(0.0), torch.tensor(255.0)
    assert StepModule(nn.Linear(1, 1), Objective(penalties, None, bounds), "bfloat16").low is None
    assert StepModule(nn.Linear(1, 1), Objective(penalties), "bfloat16").low == torch.bfloat16


def test_a_device_can_be_named(make_classifier, digits):
    assert same_weights(
        weights_of(fit(make_classifier(), digits, device=torch.device("cpu", 0)).classifier),
        weights_of(fit(make_classifier(), digits).classifier),
    )


@pytest.mark.gpu
def test_training_moves_the_classifier_to_the_device(make_classifier, digits):
    classifier = make_classifier("cnn-small", device_type="cpu")
    fit(classifier, digits, device="cuda:0", precision="bfloat16", channels_last=True)
    assert classifier.device == torch.device("cuda:0")
    assert next(classifier.model.parameters()).device == classifier.device
    assert classifier.predict(digits.x_test[:5]).shape == (5, 10)


def test_channels_last_trains_the_same(make_classifier, digits):
    plain = fit(make_classifier("cnn-small"), digits, epochs=1)
    laid_out = fit(make_classifier("cnn-small"), digits, epochs=1, channels_last=True)
    assert laid_out.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-4)
    assert all(p.is_contiguous() for p in laid_out.classifier.model.parameters())


@pytest.mark.slow
def test_a_compiled_step_trains_the_same(make_classifier, digits):
    plain = fit(make_classifier("cnn-small"), digits, epochs=2)
    compiled = fit(make_classifier("cnn-small"), digits, epochs=2, compile=True)
    for a, b in zip(plain.history, compiled.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


def test_compiling_double_backward_is_refused(make_classifier, digits):
    with pytest.raises(ValueError, match=r"`compile` is True with a penalty that needs double backward"):
        fit(make_classifier(), digits, [JacobianPenalty(estimator="projection")], compile=True)


# --- data that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_mapped_from_a_file_trains_the_same(make_classifier, digits, tmp_path, dtype):
    np.save(tmp_path / "x.npy", digits.x_train[:200].astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    results = []
    for x in (mapped, digits.x_train[:200]):
        classifier = make_classifier(penalties=PENALTIES)
        classifier.fit(x, digits.y_train[:200], nb_epochs=2, seed=0)
        results.append(weights_of(classifier))
    assert same_weights(*results)


def test_memory_grows_with_the_batch_and_not_with_the_data(tmp_path):
    script = """
        import sys, resource, warnings
        import numpy as np, torch
        from art_sensreg import SensitivityPenalty, SensRegClassifier
        torch.set_num_threads(1)
        n = int(sys.argv[1])
        x = np.lib.format.open_memmap(sys.argv[2], "w+", "float64", (n, 1, 64, 64))
        x[:] = 0.5
        x = np.load(sys.argv[2], mmap_mode="r")
        layers = [torch.nn.Flatten(), torch.nn.Linear(4096, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)]
        model = torch.nn.Sequential(*layers)
        classifier = SensRegClassifier(model, torch.nn.CrossEntropyLoss(), (1, 64, 64), 2, clip_values=(0.0, 1.0),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1), penalties=[SensitivityPenalty()])
        classifier.fit(x, np.arange(n) % 2, nb_epochs=1)
        # Pages of the file are the system's to take back: what counts is the process's own memory.
        own = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
        print(own[0].split()[1])
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    own = []
    for n in (500, 8000):
        command = [sys.executable, "-c", textwrap.dedent(script), str(n), str(tmp_path / "x.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        own.append(int(done.stdout) / 1024)
    assert own[1] - own[0] < 60  # the data are 246 MB larger


def test_a_data_loader_trains(make_classifier, digits):
    data = TensorDataset(torch.from_numpy(digits.x_train[:201]), torch.from_numpy(digits.y_train[:201]))
    trainer = SensRegTrainer(make_classifier(), PENALTIES, TrainingConfig(seed=0))
    seen = []
    loader = DataLoader(
        data, batch_size=20, shuffle=True, collate_fn=lambda rows: seen.append(len(rows)) or collate(rows)
    )
    trainer.fit_generator(loader, nb_epochs=20, verbose=False)
    assert sum(seen) == 20 + 20 * 201  # every image once an epoch, after a batch to look at
    assert trainer.history[-1]["accuracy"] > 0.8


def collate(rows):
    x, y = zip(*rows, strict=True)
    return torch.stack(x), torch.stack(y)


def test_a_loader_of_something_else_is_refused(make_classifier, digits):
    trainer = SensRegTrainer(make_classifier(), PENALTIES)
    with pytest.raises(TypeError, match=r"`generator` yields Tensor|`generator` yields list"):
        trainer.fit_generator(DataLoader(torch.rand(10, 1, 8, 8), batch_size=5), nb_epochs=1, verbose=False)


# --- weights, stopping, callbacks -----------------------------------------------------------------------------------


def test_the_moving_average_is_what_is_returned(make_classifier, digits):
    plain, averaged = make_classifier(), make_classifier()
    seen = []

    class Record(Callback):
        def on_step(self, state):
            seen.append(copy.deepcopy(state.model.state_dict()))

    fit(plain, digits)
    fit(averaged, digits, ema=0.8, callbacks=[Record()])
    assert same_weights(list(seen[-1].values()), weights_of(plain))  # the average does not change the training
    expected = seen[0]
    for later in seen[1:]:
        expected = {name: 0.8 * value + 0.2 * later[name] for name, value in expected.items()}
    for name, value in averaged.model.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6)


def test_validation_under_attack_is_the_attacks_own_success(make_classifier, digits):
    attack = ValidationAttack(eps=0.1, max_iter=5)
    trainer = fit(make_classifier(), digits, n=800, epochs=6, validation=True, validation_attack=attack)
    record = trainer.history[-1]
    assert 0 < record["val_robust_accuracy"] < record["val_accuracy"] - 0.05
    model, objective = trainer.classifier.model, Objective(clip_values=(torch.tensor(0.0), torch.tensor(1.0)))
    x, y = torch.from_numpy(digits.x_test[:100]), torch.from_numpy(digits.y_test[:100])
    perturbed = attack(model, objective, x, y, torch.Generator().manual_seed(0))
    assert (perturbed - x).abs().max() <= 0.1 + 1e-6
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    found = (correct(model(x), y) & correct(model(perturbed), y)).float().mean()
    assert found == pytest.approx(record["val_robust_accuracy"], abs=0.05)


def test_validation_attacks_in_l2_stay_inside(make_classifier, digits):
    model, objective = make_classifier().model, Objective()
    x, y = torch.from_numpy(digits.x_test[:20]), torch.from_numpy(digits.y_test[:20])
    attack = ValidationAttack(eps=0.7, norm="l2", max_iter=20)
    size = (attack(model, objective, x, y, torch.Generator().manual_seed(0)) - x).flatten(1).norm(dim=1)
    assert size.max() <= 0.7 + 1e-5
    assert size.median() > 0.6


def test_early_stopping_and_the_best_weights(make_classifier, digits):
    class Spoil(Callback):
        """From the third epoch on the weights are random: the second is the best."""

        def on_epoch(self, state):
            best.append(weights_of(classifier)) if state.epoch == 2 else None

        def on_step(self, state):
            if state.epoch > 2:
                for parameter in state.model.parameters():
                    nn.init.normal_(parameter)

    best = []
    classifier = make_classifier()
    config = {"validation": True, "patience": 3, "restore_best": True, "callbacks": [Spoil()]}
    trainer = fit(classifier, digits, n=800, epochs=30, **config)
    assert len(trainer.history) == 5
    assert same_weights(weights_of(classifier), best[0])


def test_what_is_monitored_must_be_there(make_classifier, digits):
    with pytest.raises(ValueError, match=r"`monitor` is 'val_accuracy' and `validation_data` is None"):
        fit(make_classifier(), digits, patience=1)
    with pytest.raises(ValueError, match=r"`monitor` is 'val_robust_accuracy' and `validation_attack` is None"):
        fit(make_classifier(), digits, patience=1, validation=True, monitor="val_robust_accuracy")
    with pytest.raises(ValueError, match=r"`validation_attack` is given and `validation_data` is None"):
        fit(make_classifier(), digits, validation_attack=ValidationAttack(eps=0.1))
    assert len(fit(make_classifier(), digits, patience=1, monitor="loss").history) == 2


def test_callbacks_are_called_in_order(make_classifier, digits):
    calls = []

    class Log(Callback):
        def on_start(self, state):
            calls.append(("start", state.epoch, state.total_steps))

        def on_step(self, state):
            calls.append(("step", state.epoch, state.step))
            assert set(state.terms) == {"loss", "base", "sensitivity", "jacobian"}

        def on_epoch(self, state):
            calls.append(("epoch", state.history[-1]["epoch"], len(state.history)))

        def on_end(self, state):
            calls.append(("end", state.epoch, state.total_steps))
            assert not state.model.training

    class OnlyEnd:
        def on_end(self, state):
            calls.append("other")

    fit(make_classifier(), digits, n=100, callbacks=[Log(), OnlyEnd()])
    assert calls == [
        ("start", 0, 0), ("step", 1, 1), ("step", 1, 2), ("epoch", 1, 1), ("step", 2, 1), ("step", 2, 2),
        ("epoch", 2, 2), ("end", 2, 4), "other",
    ]  # fmt: skip


class Exploding:
    weight, name = 1.0, "exploding"

    def __init__(self, when):
        self.when, self.calls = when, 0

    def __call__(self, model, x, y):
        self.calls += 1
        return model(x).sum() * (float("nan") if self.calls in self.when else 0.0)


def test_steps_whose_loss_is_not_finite_can_be_left_out(make_classifier, digits, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = fit(make_classifier(), digits, [Exploding({2, 5})], on_nonfinite="skip")
    assert [record["skipped"] for record in trainer.history] == [1, 2]
    assert np.isfinite(trainer.history[-1]["loss"])
    assert "Step 2 of epoch 1 is left out: 'exploding' is not finite" in caplog.text
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 4; .* 2 steps were left out before it"):
        fit(make_classifier(), digits, [Exploding(range(2, 9))], on_nonfinite="skip", max_skipped=2)


def test_a_config_goes_for_the_classifiers_own_fit_too(make_classifier, digits):
    x, y = digits.x_train[:100], digits.y_train[:100]
    classifier, other = make_classifier(penalties=PENALTIES), make_classifier(penalties=PENALTIES)
    classifier.fit(x, y, config=TrainingConfig(seed=3, batch_size=20, nb_epochs=2))
    other.fit(x, y, batch_size=20, nb_epochs=2, seed=3)
    assert same_weights(weights_of(classifier), weights_of(other))
    with pytest.raises(TypeError, match=r"`config` is 3; expected a TrainingConfig"):
        classifier.fit(x, y, config=3)
