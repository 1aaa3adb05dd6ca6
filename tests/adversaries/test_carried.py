"""The carried adversary in training: whose perturbation moves, whereto, and what happens at kill and resume."""

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from art_sensreg import JacobianPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import CarriedAdversary
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import read_newest
from tests.adversaries.helpers import LOSS, SR_JR, prototypes, small_net, trainer_of

WEIGHT = torch.tensor([[1.0, -2.0, 0.0, 0.5], [-1.0, 1.0, 0.0, 0.5]])
X = np.random.default_rng(0).random((23, 4), dtype=np.float32)
Y = np.arange(23) % 2
KINDS = [CarriedAdversary(eps=0.3, eps_step=0.1), CarriedAdversary(eps=0.3, eps_step=0.1, free=True)]


def linear(config, adversary, penalties=()):
    """A linear model that does not move: where its perturbations go is known."""
    model = nn.Linear(4, 2, bias=False)
    model.weight.data.copy_(WEIGHT)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    classifier = PyTorchClassifier(model, LOSS, (4,), 2, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu")
    return SensRegTrainer(classifier, list(penalties), config, adversary)


def kept(folder, eps=0.3):
    """The perturbations in the newest checkpoint."""
    _, tree = read_newest(folder)
    levels = tree["perturbations"]["levels"]
    assert levels.dtype == torch.int8
    assert levels.nbytes == X.size  # one byte a pixel
    return levels.numpy() * eps / 127


def expected_after(visits, adversary):
    """A closed form: towards the other class, in steps, inside the ball and the range; the zero weight never moves."""
    direction = np.sign((WEIGHT[1] - WEIGHT[0]).numpy())[None] * np.where(Y == 0, 1, -1)[:, None]
    far = np.clip(X + direction * visits * 2 * adversary.eps, 0, 1) - X  # from any start: at the border by then
    return np.clip(far, -adversary.eps, adversary.eps), direction


@pytest.mark.parametrize("adversary", KINDS, ids=["steps", "free"])
@pytest.mark.parametrize("source", ["arrays", "mapped", "loader", "subset"])
def test_each_perturbation_follows_its_image_through_shuffled_epochs(tmp_path, adversary, source):
    epochs = 7  # of steps of a third of the ball: all have arrived
    config = TrainingConfig(seed=3, batch_size=5)
    trainer = linear(config, adversary)
    if source == "loader":
        trainer.fit_generator(indexed_loader(), nb_epochs=epochs, checkpoint_dir=tmp_path, verbose=False)
    else:
        x = X
        if source == "mapped":
            np.save(tmp_path / "x.npy", X)
            x = np.load(tmp_path / "x.npy", mmap_mode="r")
        elif source == "subset":
            x = np.repeat(X, 2, axis=0)[::2]  # a view
        trainer.fit(x, Y, nb_epochs=epochs, checkpoint_dir=tmp_path / "run", verbose=False)
    folder = tmp_path if source == "loader" else tmp_path / "run"
    found, (expected, direction) = kept(folder), expected_after(epochs, adversary)
    moves = np.broadcast_to(direction != 0, X.shape)
    assert np.abs(found - expected)[moves].max() <= 0.3 / 254 + 1e-6  # half a level
    assert np.abs(found[:, 2]).max() > 0.1  # where there is no gradient, the first perturbation stays


def test_a_subset_of_images_that_know_their_place_is_trained_on(tmp_path):
    """As `random_split` makes it: indices are those of the whole data set, of which most are never seen."""
    whole = indexed_loader().dataset
    places = [20, 3, 11, 22]
    loader = DataLoader(Subset(Subset(whole, [*range(2, 23)]), [place - 2 for place in places]), batch_size=3)
    adversary = KINDS[0]
    trainer = linear(TrainingConfig(seed=3), adversary)
    trainer.fit_generator(loader, nb_epochs=7, checkpoint_dir=tmp_path, verbose=False)
    found, (expected, direction) = kept(tmp_path), expected_after(7, adversary)
    moves = np.broadcast_to(direction != 0, X.shape)[places]
    assert np.abs(found[places] - expected[places])[moves].max() <= 0.3 / 254 + 1e-6
    others = np.setdiff1d(np.arange(len(X)), places)
    assert np.abs(found[others] - expected[others]).max() > 0.1  # these are where they were first drawn


def indexed_loader(rename=lambda index: index):
    class Indexed(Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return X[index], Y[index], rename(index)

    return DataLoader(Indexed(), batch_size=5, shuffle=True)


@pytest.mark.parametrize("adapter", [None, lambda batch: tuple(batch)], ids=["as it is", "adapted"])
@pytest.mark.parametrize("indexed", [False, True], ids=["pairs", "triples"])
def test_held_out_images_may_say_which_they_are(indexed, adapter):
    pairs = DataLoader(list(zip(X, Y, strict=True)), batch_size=5)
    trainer = linear(TrainingConfig(seed=0), KINDS[0])
    validation = indexed_loader() if indexed else pairs
    trainer.fit_generator(
        indexed_loader(), validation_data=validation, batch_adapter=adapter, nb_epochs=1, verbose=False
    )
    correct = (X @ WEIGHT.numpy().T).argmax(axis=1) == Y
    assert trainer.history[-1]["val_accuracy"] == pytest.approx(correct.mean())


def test_one_visit_moves_by_one_step_from_where_the_last_one_ended(tmp_path):
    adversary = CarriedAdversary(eps=0.3, eps_step=0.1)
    config = TrainingConfig(seed=0, batch_size=5)
    linear(config, adversary).fit(X, Y, nb_epochs=1, checkpoint_dir=tmp_path, verbose=False)
    one = kept(tmp_path)
    linear(config, adversary).fit(X, Y, nb_epochs=2, checkpoint_dir=tmp_path, resume=True, verbose=False)
    _, direction = expected_after(1, adversary)
    two = np.clip(X + np.clip(one + 0.1 * direction, -0.3, 0.3), 0, 1) - X
    moves = np.broadcast_to(direction != 0, X.shape)
    assert np.abs(kept(tmp_path) - two)[moves].max() <= 0.3 / 254 + 1e-6


def test_in_the_l2_ball_every_image_has_its_own_unit(tmp_path):
    adversary = CarriedAdversary(eps=0.3, eps_step=0.2, norm="l2")
    x = X * 0.2 + 0.4  # the ball is inside of the range
    trainer = linear(TrainingConfig(seed=0, batch_size=5), adversary)
    trainer.fit(x, Y, nb_epochs=8, checkpoint_dir=tmp_path, verbose=False)
    _, tree = read_newest(tmp_path)
    state = tree["perturbations"]
    found = state["levels"].numpy() * state["units"].numpy()[:, None]
    difference = (WEIGHT[1] - WEIGHT[0]).numpy()
    expected = 0.3 * difference / np.linalg.norm(difference) * np.where(Y == 0, 1, -1)[:, None]
    assert np.abs(found - expected).max() < 0.02
    assert np.linalg.norm(found, axis=1).max() <= 0.3 * 1.02


@pytest.mark.parametrize("adversary", KINDS, ids=["steps", "free"])
def test_what_is_carried_rises_with_the_size(tmp_path, adversary):
    """Of a model that does not move, visits move perturbations by the same shares of a size that rises."""
    x = X * 0.2 + 0.4  # the ball is inside of the range
    found = []
    for warmup in (0.0, 0.9):
        config = TrainingConfig(seed=0, batch_size=5, nb_epochs=2, eps_warmup=warmup)
        folder = tmp_path / str(warmup)
        linear(config, adversary).fit(x, Y, checkpoint_dir=folder, verbose=False)
        found.append(kept(folder))
    moves = np.broadcast_to(WEIGHT[0] != WEIGHT[1], X.shape)  # elsewhere rounding decides
    assert np.abs(found[0] - found[1])[moves].max() <= 2 * 0.3 / 127 + 1e-6  # rounded at each of two visits


class Dies(Callback):
    def on_step(self, state):
        if state.total_steps == 17:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("free", "norm", "warmup"), [(False, "linf", 0.0), (True, "linf", 0.0), (False, "l2", 0.9), (True, "l2", 0.9)]
)
def test_a_run_that_was_broken_off_ends_like_one_that_was_not(tmp_path, free, norm, warmup):
    x, y = prototypes(100)
    adversary = CarriedAdversary(eps=0.2, free=free, norm=norm)

    def run(folder, resume=False, callbacks=()):
        trainer = trainer_of(
            adversary, SR_JR, batch_size=16, nb_epochs=4, checkpoint_every=5, eps_warmup=warmup,
            callbacks=list(callbacks),
        )  # fmt: skip
        trainer.fit(x, y, checkpoint_dir=folder, resume=resume, verbose=False)
        return [p.detach().clone() for p in trainer.get_classifier().model.parameters()]

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", callbacks=[Dies()])
    resumed = run(tmp_path / "broken", resume=True)
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (DataLoader(list(zip(X, Y, strict=True)), batch_size=5), TypeError, "images, labels and indices"),
        (NumpyDataGenerator(X, Y, batch_size=5), TypeError, "images, labels and indices"),
        (indexed_loader(lambda index: index + 1), ValueError, "run from 1 to 23; expected places in the data set"),
        (indexed_loader(float), ValueError, "expected whole numbers"),
        (
            indexed_loader(lambda index: f"image{index}.png"),
            ValueError,
            r"`indices` of a batch are \w+; expected whole",
        ),
        (indexed_loader(lambda index: {"place": index}), ValueError, "`indices` of a batch are dict; expected whole"),
    ],
    ids=["pairs", "ART's generator", "out of range", "not whole", "names", "dicts"],
)
def test_a_loader_that_does_not_say_which_images_it_yields_is_refused(loader, error, message):
    if loader.__class__ is DataLoader and "run from" in message:
        loader = DataLoader(loader.dataset, batch_size=23)
    trainer = linear(TrainingConfig(seed=0), KINDS[0])
    with pytest.raises(error, match=message):
        trainer.fit_generator(loader, nb_epochs=1, verbose=False)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="`pair` is 'start' with `free`"):
        CarriedAdversary(eps=0.1, free=True, pair="start")
    with pytest.raises(ValueError, match="`norm`"):
        CarriedAdversary(eps=0.1, norm="l1")
    with pytest.raises(ValueError, match=r"`eps_step` is 0\.007 with `eps` 0\.3; expected at least eps / 40"):
        CarriedAdversary(eps=0.3, eps_step=0.007, norm="l2")
    for eps in (0.3, 0.33, 8 / 255):
        finest = CarriedAdversary(eps=eps, eps_step=eps / 254)
        assert all(finest.at_size(step / 199).eps for step in range(1, 200))
    with pytest.raises(ValueError, match=r"`eps_step` is 0\.001 with `eps` 0\.3; expected at least eps / 254"):
        CarriedAdversary(eps=0.3, eps_step=0.001)
    CarriedAdversary(eps=0.3, eps_step=0.0012)
    with pytest.raises(TypeError, match="`free`"):
        CarriedAdversary(eps=0.1, free="yes")
    with pytest.raises(ValueError, match="compares no activations"):
        linear(TrainingConfig(), KINDS[0], [*SR_JR, JacobianPenalty(estimator="projection")])


def test_a_loader_whose_indices_are_places_in_the_batch_is_warned_about(caplog):
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    trainer = linear(TrainingConfig(seed=0), CarriedAdversary(eps=0.3))
    trainer.fit_generator(
        loader, nb_epochs=2, verbose=False, batch_adapter=lambda pair: (*pair, torch.arange(len(pair[0])))
    )
    assert caplog.text.count("The indices of the loader name 4 images in an epoch of 23 examples") == 1


def test_a_loss_of_each_example_is_refused():
    model = small_net(d=4, classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    each = nn.CrossEntropyLoss(reduction="none")
    classifier = PyTorchClassifier(model, each, (4,), 2, optimizer=optimizer, device_type="cpu")
    with pytest.raises(TypeError, match=r"tensor of shape \(\d+,\); expected a 0-d tensor.*reduction='mean'"):
        SensRegTrainer(classifier, [], adversary=CarriedAdversary(eps=0.1)).fit(X, Y, nb_epochs=1, verbose=False)


def test_repr_rebuilds_the_call():
    for adversary in KINDS:
        assert eval(repr(adversary)) == adversary
    assert CarriedAdversary(eps=0.2).step == 0.1
    assert CarriedAdversary(eps=0.2, free=True).step == 0.05
    assert CarriedAdversary(eps=0.2).pair == "start"
    assert CarriedAdversary(eps=0.2, free=True).pair == "noisy"


def test_over_the_epochs_it_becomes_as_strong_as_many_steps():
    """On a net with fixed weights the carried perturbations reach the loss of PGD with many steps."""
    x, y = prototypes(64)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    model = small_net()
    adversary = CarriedAdversary(eps=0.2, eps_step=0.05)
    perturbation = adversary.draw_start(inputs, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(12):
        perturbed = adversary.perturb_from(model, inputs, perturbation, labels, LOSS)
        perturbation = perturbed - inputs
        losses.append(LOSS(model(perturbed), labels).item())
    assert perturbation.abs().max() <= 0.2 + 1e-6
    assert losses[-1] > losses[0] > LOSS(model(inputs), labels).item()
