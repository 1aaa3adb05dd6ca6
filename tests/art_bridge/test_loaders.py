"""Loaders of any batches: streams, dicts, triples; for training and for validation."""

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, get_worker_info

from art_sensreg import SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.art_bridge.loaders import loader_source
from art_sensreg.training import ValidationAttack
from tests.conftest import same_weights, weights_of

X = np.random.default_rng(0).random((22, 4), dtype=np.float32)
Y = np.arange(22) % 3


def classifier(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return SensRegClassifier(
        net, nn.CrossEntropyLoss(), (4,), 3, optimizer=torch.optim.SGD(net.parameters(), 0.1), clip_values=(0, 1),
        device_type="cpu", **options,
    )  # fmt: skip


def trained(loader, kind="trainer", epochs=2, **settings):
    target = classifier()
    if kind == "trainer":
        trainer = SensRegTrainer(target, [SensitivityPenalty()], TrainingConfig(seed=0))
        trainer.fit_generator(loader, nb_epochs=epochs, verbose=False, **settings)
        return weights_of(target), trainer.history
    target.penalties = [SensitivityPenalty()]
    target.fit_generator(loader, nb_epochs=epochs, seed=0, **settings)
    return weights_of(target), target.history


class Rows(Dataset):
    """Batches are what `form` makes of a row."""

    def __init__(self, form, n=22):
        self.form, self.n = form, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.form(torch.from_numpy(X[index]), int(Y[index]), index)


class Stream(IterableDataset):
    def __init__(self, n=22, shared=False, length=None):
        self.n, self.shared = n, shared
        if length is not None:
            self.length = length

    def __iter__(self):
        worker = get_worker_info() if self.shared else None
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, self.n, step):
            yield torch.from_numpy(X[index]), int(Y[index])


class LongStream(Stream):
    def __len__(self):
        return self.length


PAIRS = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=5)
FORMS = {
    "dict": (lambda x, y, i: {"image": x, "label": y, "id": i}, lambda batch: (batch["image"], batch["label"])),
    "triple": (lambda x, y, i: (x, y, i), lambda batch: batch[:2]),
    "labels first": (lambda x, y, i: (y, x), lambda batch: batch[::-1]),
    "integers": (lambda x, y, i: ((x * 255).to(torch.uint8), y), lambda batch: (batch[0].float() / 255, batch[1])),
}


@pytest.mark.parametrize("kind", ["trainer", "classifier"])
@pytest.mark.parametrize("form", FORMS)
def test_a_batch_adapter_makes_pairs_of_anything(form, kind):
    make, adapter = FORMS[form]
    loader = DataLoader(Rows(make), batch_size=5)
    x = torch.from_numpy(X if form != "integers" else np.floor(X * 255).astype(np.float32) / np.float32(255))
    expected = trained(DataLoader(TensorDataset(x, torch.from_numpy(Y)), batch_size=5), kind)[0]
    assert same_weights(trained(loader, kind, batch_adapter=adapter)[0], expected)


def unlike(form, adapter=None, **options):
    return DataLoader(Rows(form), batch_size=5), {"batch_adapter": adapter, **options}


WRONG = {
    "dict": (unlike(lambda x, y, i: {"image": x, "label": y}), TypeError,
             r"`generator` yields a dict of image, label; expected pairs of images and labels, or a `batch_adapter`"),
    "triple": (unlike(lambda x, y, i: (x, y, i)), TypeError, r"`generator` yields a list of 3; expected pairs"),
    "images alone": (unlike(lambda x, y, i: x), TypeError, r"`generator` yields Tensor; expected pairs"),
    "adapter's key": (unlike(lambda x, y, i: {"x": x}, lambda b: (b["image"], b["x"])), ValueError,
                      r"`batch_adapter` failed on a batch of `generator`, a dict of x: KeyError: 'image'"),
    "adapter's result": (unlike(lambda x, y, i: (x, y, i), lambda b: b), TypeError,
                         r"`batch_adapter` returns a list of 3; expected a pair"),
    "no function": (unlike(lambda x, y, i: (x, y), 3), TypeError, r"`batch_adapter` is 3; expected a function"),
    "class": (unlike(lambda x, y, i: (x, y), dict), TypeError, r"`batch_adapter` is <class 'dict'>; expected a func"),
    "uint8": (unlike(lambda x, y, i: ((x * 255).byte(), y)), TypeError,
              r"`x` has dtype uint8; expected floating point images scaled to \[0, 1\]: .* x.float\(\) / 255"),
    "range": (unlike(lambda x, y, i: (x * 2, y)), ValueError, r"`x` has values from"),
    "labels": (unlike(lambda x, y, i: (x, y + 1)), ValueError, r"`y` has class indices from 1 to 3"),
    "validation triple": (
        unlike(lambda x, y, i: (x, y), validation_data=DataLoader(Rows(lambda x, y, i: (x, y, i)), batch_size=5)),
        TypeError, r"`validation_data` yields a list of 3"),
    "validation range": (
        unlike(lambda x, y, i: (x, y), validation_data=DataLoader(Rows(lambda x, y, i: (x * 2, y)), batch_size=5)),
        ValueError, r"`validation_data: x` has values from"),
    "validation empty": (
        unlike(lambda x, y, i: (x, y), validation_data=DataLoader(Rows(lambda x, y, i: (x, y), n=0), batch_size=5)),
        ValueError, r"`validation_data` is a DataLoader of 0 batches with no batch"),
    "no data": (
        unlike(lambda x, y, i: (x, y), validation_data=3), TypeError,
        r"`validation_data` is int; expected a pair \(x, y\), an ART data generator or a torch DataLoader"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", ["trainer", "classifier"])
def test_wrong_batches_are_refused_before_a_weight_moves(name, kind):
    (loader, options), error, message = WRONG[name]
    target = classifier()
    before = weights_of(target)
    trains = SensRegTrainer(target, []) if kind == "trainer" else target
    with pytest.raises(error, match=message):
        trains.fit_generator(loader, nb_epochs=1, **options)
    assert same_weights(before, weights_of(target))


@pytest.mark.parametrize("dataset", [Stream(), LongStream(length=22)], ids=["without length", "with length"])
def test_streams_train_as_their_examples_do(dataset):
    weights, history = trained(DataLoader(dataset, batch_size=5), epochs=3)
    assert same_weights(weights, trained(PAIRS, epochs=3)[0])
    assert [record["epoch"] for record in history] == [1, 2, 3]


def test_a_stream_without_length_is_counted_and_says_so(caplog):
    assert loader_source(DataLoader(Stream(), batch_size=5)).length == 5
    assert "does not know how many batches it has: they are counted before training" in caplog.text


def test_workers_that_all_give_the_same_examples_are_refused():
    for dataset in (Stream(), LongStream(length=22)):
        with pytest.raises(ValueError, match=r"an IterableDataset and 2 workers that all give the same data; expected"):
            trained(DataLoader(dataset, batch_size=5, num_workers=2))


def test_workers_that_divide_a_stream_give_every_example_once(caplog):
    loader = DataLoader(LongStream(length=22, shared=True), batch_size=4, num_workers=2)  # 11 rows each: 3 + 3 batches
    assert len(loader) == 6
    source = loader_source(loader)
    rows = np.concatenate([np.asarray(x) for x, _ in source.epoch()])
    assert source.length == 6
    assert np.array_equal(np.sort(rows, axis=0), np.sort(X, axis=0))
    assert "may come once for each worker" not in caplog.text


def test_workers_that_may_repeat_examples_are_named(caplog):
    class Shuffled(Stream):
        def __iter__(self):
            for index in torch.randperm(self.n):
                yield torch.from_numpy(X[index]), int(Y[index])

    loader_source(DataLoader(Shuffled(), batch_size=5, num_workers=2))
    assert "every example may come once per worker" in caplog.text


@pytest.mark.parametrize("attack", [None, ValidationAttack(eps=0.1, max_iter=2)])
def test_a_validation_loader_scores_as_its_arrays_do(attack):
    def history(validation, **options):
        config = TrainingConfig(seed=0, batch_size=5, validation_attack=attack)
        trainer = SensRegTrainer(classifier(), [], config)
        trainer.fit(X, Y, validation_data=validation, nb_epochs=2, verbose=False, **options)
        return [{name: value for name, value in record.items() if name[:3] == "val"} for record in trainer.history]

    expected = history((X, Y))
    assert len(expected[0]) == (2 if attack is None else 3)
    tensors = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loaders = [
        PAIRS,
        DataLoader(tensors, batch_size=20),  # larger than the config's: split
        NumpyDataGenerator(X, Y, batch_size=5, drop_remainder=False, shuffle=False),
        PyTorchDataGenerator(PAIRS, size=22, batch_size=5),
        DataLoader(Stream(), batch_size=5),
    ]
    for loader in loaders[:1] + loaders[2:]:
        assert history(loader) == expected
    for record, right in zip(history(loaders[1]), expected, strict=True):
        assert record["val_loss"] == pytest.approx(right["val_loss"], rel=1e-6)
        assert record["val_accuracy"] == pytest.approx(right["val_accuracy"])


def test_a_validation_loader_with_an_adapter_and_a_shuffle_leaves_training_alone():
    make, adapter = FORMS["dict"]
    loader = DataLoader(Rows(make), batch_size=5, shuffle=True)
    validation = DataLoader(Rows(make), batch_size=4, shuffle=True)
    alone = trained(loader, batch_adapter=adapter)
    scored = trained(loader, batch_adapter=adapter, validation_data=validation)
    assert same_weights(alone[0], scored[0])
    target = classifier()
    for weight, value in zip(target.model.parameters(), scored[0], strict=True):
        weight.data.copy_(value)
    right = (target.predict(X).argmax(1) == Y).mean()
    assert scored[1][-1]["val_accuracy"] == pytest.approx(right)


def test_the_guard_of_one_step_training_samples_a_validation_loader():
    from art_sensreg.adversaries import FGSMRS

    trainer = SensRegTrainer(classifier(), [], TrainingConfig(seed=0), adversary=FGSMRS(eps=0.05))
    trainer.fit(X, Y, validation_data=PAIRS, nb_epochs=1, verbose=False)
    assert 0 <= trainer.history[0]["pgd_accuracy"] <= 1


@pytest.mark.parametrize("sampler", [False, True])
def test_a_loader_with_a_generator_of_its_own_resumes_in_its_order(tmp_path, sampler):
    def loader():
        generator = torch.Generator().manual_seed(3)
        data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        if sampler:
            return DataLoader(data, batch_size=5, sampler=RandomSampler(data, generator=generator))
        return DataLoader(data, batch_size=5, shuffle=True, generator=generator)

    whole = trained(loader(), epochs=3)[0]
    trained(loader(), epochs=1, checkpoint_dir=tmp_path)
    resumed = trained(loader(), epochs=3, checkpoint_dir=tmp_path, resume=True)[0]
    assert same_weights(whole, resumed)


def test_a_stream_that_can_be_gone_through_once_is_refused():
    class Once(IterableDataset):
        def __init__(self):
            self.rows = iter(Stream())

        def __iter__(self):
            return self.rows

    class OnceWithLength(Once):
        def __len__(self):
            return 22

    target = classifier()
    before = weights_of(target)
    with pytest.raises(ValueError, match=r"`generator` yielded no batch; expected some every time it is iterated over"):
        target.fit_generator(DataLoader(Once(), batch_size=5), nb_epochs=1)
    assert same_weights(before, weights_of(target))
    with pytest.raises(ValueError, match=r"`generator` yielded no batch in this epoch; expected some every time"):
        target.fit_generator(DataLoader(OnceWithLength(), batch_size=5), nb_epochs=2)
