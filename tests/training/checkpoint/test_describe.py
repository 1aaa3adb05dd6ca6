"""Objects, arrays and loaders as texts."""

import copy
import types

import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import SensRegClassifier
from tests.training.checkpoint.helpers import Net, Ridge, Run, X, Y, one_changed


def test_a_memory_mapped_file_is_read_in_full_and_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("art_sensreg.training.checkpoint.describe._CHUNK", 100)
    np.save(tmp_path / "x.npy", X)
    Run(x=np.load(tmp_path / "x.npy", mmap_mode="r")).start(tmp_path / "run")
    Run(x=X).start(tmp_path / "run", resume=True)
    np.save(tmp_path / "x.npy", one_changed(X, 149))
    with pytest.raises(ValueError, match=r"training data's `content`"):
        Run(x=np.load(tmp_path / "x.npy", mmap_mode="r")).start(tmp_path / "run", resume=True)


def test_copies_and_shared_things_are_described_alike():
    from art_sensreg.training.checkpoint.describe import Describer

    shared = np.arange(3)
    thing = types.SimpleNamespace(a=shared, b=[shared, {1, "x"}, {"k": Ridge()}], c=lambda x: x)
    thing.itself = thing
    assert dict(Describer()("thing", thing)) == dict(Describer()("thing", copy.deepcopy(thing)))


def test_loaders_are_identified_by_their_data_and_settings(tmp_path):
    def start(x=X, batch_size=50, resume=True, **settings):
        torch.manual_seed(0)
        net = Net()
        classifier = SensRegClassifier(
            net, nn.CrossEntropyLoss(), (4,), 3, optimizer=torch.optim.SGD(net.parameters(), 0.1), device_type="cpu"
        )
        data = TensorDataset(torch.from_numpy(x), torch.from_numpy(Y))
        classifier.fit_generator(
            DataLoader(data, batch_size, **settings), nb_epochs=1, checkpoint_dir=tmp_path, resume=resume, seed=0
        )

    start(resume=False)
    start()
    start(num_workers=0, pin_memory=False)
    for change, message in (
        ({"x": one_changed(X)}, r"`dataset.tensors.0` is array"),
        ({"batch_size": 30}, r"`content` is DataLoader of 3 batches.* expected DataLoader of 5"),
        ({"shuffle": True}, r"`sampler`"),
        ({"drop_last": True}, r"`drop_last`"),
        ({"collate_fn": lambda rows: torch.utils.data.default_collate(rows)}, r"`collate_fn`"),
    ):
        with pytest.raises(ValueError, match=r"training data's " + message):
            start(**change)


def test_smoothing_window(tmp_path):
    images = np.random.default_rng(0).random((6, 1, 4, 4), dtype=np.float32)

    def start(window, resume):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        classifier = SensRegClassifier(
            net, nn.CrossEntropyLoss(), (1, 4, 4), 3, optimizer=torch.optim.SGD(net.parameters(), 0.1),
            preprocessing_defences=SpatialSmoothing(window, channels_first=True), device_type="cpu",
        )  # fmt: skip
        classifier.fit(images, np.arange(6) % 3, nb_epochs=1, seed=0, checkpoint_dir=tmp_path, resume=resume)

    start(3, False)
    start(3, True)
    with pytest.raises(ValueError, match=r"preprocessing's `0.window_size` is 3 in the checkpoint; expected 2"):
        start(2, True)
