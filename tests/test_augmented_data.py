"""Augmented images for ART's trainers: what they get, how often, and what is refused."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerFBFPyTorch, AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import Augmentation, augmented
from art_sensreg.augmented_data import AugmentedImages
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.utils.rng import derive_seed

X = np.random.default_rng(0).random((23, 1, 6, 6)).astype(np.float32)
Y = np.eye(2, dtype=np.float32)[np.arange(23) % 2]
ALL = Augmentation(crop_padding=2, flip=True, cutout=2)


def test_each_epoch_has_every_image_once_augmented_anew():
    x = np.broadcast_to(np.arange(1, 24, dtype=np.float32)[:, None, None, None], (23, 1, 6, 6))
    generator = augmented(x, np.arange(23), ALL, batch_size=10, seed=5, low=-1.0)
    epochs = [[generator.get_batch() for _ in range(3)] for _ in range(2)]
    orders = [np.concatenate([labels for _, labels in epoch]) for epoch in epochs]
    for order in orders:
        assert sorted(order) == list(range(23))
    assert not np.array_equal(*orders)
    probes = Probes(derive_seed(5, "augmentation"), torch.device("cpu"))
    for step, (images, labels) in enumerate(epochs[0] + epochs[1]):
        whole = torch.from_numpy(x[labels].copy())
        expected = ALL.draw(whole, probes.at(step)).apply(whole, -1.0)
        assert np.array_equal(images, expected.numpy())
    again = augmented(x, np.arange(23), ALL, batch_size=10, seed=5, low=-1.0).get_batch()
    assert all(np.array_equal(a, b) for a, b in zip(again, epochs[0][0], strict=True))


def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 2, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


TRAINERS = {
    "fgm": lambda made: AdversarialTrainer(made, FastGradientMethod(made, eps=0.1), ratio=0.5),
    "madry": lambda made: AdversarialTrainerMadryPGD(made, eps=0.1, eps_step=0.1, max_iter=1),
    "fbf": lambda made: AdversarialTrainerFBFPyTorch(made, eps=0.1),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_arts_trainers_draw_each_batch_from_augmented_arrays(name):
    found = []
    for augmentation in (Augmentation(), ALL, ALL):
        np.random.seed(0)
        made, images = classifier(), AugmentedImages(X, augmentation)
        TRAINERS[name](made).fit(images, Y, batch_size=10, nb_epochs=2)
        assert images.drawn == 6
        found.append(made.model[1].weight.detach().clone())
    np.random.seed(0)
    plain = classifier()
    TRAINERS[name](plain).fit(X, Y, batch_size=10, nb_epochs=2)
    assert torch.equal(found[0], plain.model[1].weight)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_arts_fit_generator_takes_them():
    made = classifier()
    before = made.model[1].weight.detach().clone()
    AdversarialTrainer(made, FastGradientMethod(made, eps=0.1)).fit_generator(augmented(X, Y, ALL, 10), nb_epochs=1)
    made.fit_generator(augmented(X, Y, ALL, 10), nb_epochs=1)
    assert not torch.equal(before, made.model[1].weight)


def test_what_would_see_images_as_they_are_is_refused():
    images = AugmentedImages(X, ALL)
    for use in (np.array, np.copy, np.asarray, lambda x: x[:5], lambda x: x[3], lambda x: x[np.ones(23, bool)]):
        with pytest.raises(TypeError, match="draws each batch by an array of indices"):
            use(images)
    with pytest.raises(TypeError):
        classifier().fit(images, Y, nb_epochs=1)
    with pytest.raises(TypeError, match="`augmentation` is 3"):
        augmented(X, Y, 3)
    with pytest.raises(ValueError, match="expected images of shape"):
        augmented(X.reshape(23, 36), Y, ALL)
    with pytest.raises(ValueError, match="`y` has 22 labels; expected 23"):
        augmented(X, Y[:22], ALL)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float64])
def test_images_keep_their_type(kind):
    images = (X * 200).astype(kind)
    drawn, _ = augmented(images, Y, ALL, batch_size=23, low=3).get_batch()
    assert drawn.dtype == kind
    assert set(np.unique(drawn)) <= {*np.unique(images), 3}
    for given in (images.tolist(), torch.from_numpy(images)):
        assert augmented(given, Y, ALL, batch_size=5).get_batch()[0].shape == (5, 1, 6, 6)


def test_each_channel_may_have_its_own_lower_end():
    x, low = np.ones((6, 2, 5, 5), np.float32), np.array([-1.0, -2.0]).reshape(2, 1, 1)
    drawn, _ = augmented(x, np.arange(6), Augmentation(crop_padding=2), batch_size=6, low=low).get_batch()
    assert set(np.unique(drawn[:, 0])) == {-1.0, 1.0}
    assert set(np.unique(drawn[:, 1])) == {-2.0, 1.0}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"low": np.nan}, ValueError, "`low` is nan; expected a finite number"),
        ({"low": "black"}, ValueError, "`low` is 'black'; expected a finite number"),
        ({"low": np.zeros(4)}, ValueError, r"that broadcast to \(1, 6, 6\)"),
        ({"x": np.full((23, 1, 6, 6), "a")}, TypeError, "`x` has dtype <U1; expected numbers"),
        ({"y": None}, ValueError, "`y` has 0 labels; expected 23"),
        ({"y": Y[:5]}, ValueError, "`y` has 5 labels; expected 23"),
    ],
)
def test_what_is_no_image_or_label_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        augmented(**{"x": X, "y": Y, "augmentation": ALL, **given})
