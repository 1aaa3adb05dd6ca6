"""Crops, flips and cutouts against loops over pixels; what a run makes of them; whose perturbation is kept."""

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import Preprocessor
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import Augmentation, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import CarriedAdversary
from art_sensreg.adversaries.visits import PerturbationMemory
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import read_newest
from art_sensreg.utils.rng import derive_seed

CPU = torch.device("cpu")
ALL = Augmentation(crop_padding=2, flip=True, cutout=3)
KINDS = [
    Augmentation(),
    Augmentation(crop_padding=2),
    Augmentation(flip=True),
    Augmentation(cutout=3),
    Augmentation(cutout=2),
    ALL,
]
SHAPE = (2, 5, 7)
X = np.random.default_rng(0).uniform(-1, 1, (23, *SHAPE)).astype(np.float32)
Y = np.arange(23) % 2


def augmented(image, transform, row, low=0.0):
    """One image, by numpy's padding, slices and loops."""
    if transform.down is not None:
        pad = 4
        padded = np.pad(image, [(0, 0), (pad, pad), (pad, pad)], constant_values=low)
        top, left = pad + int(transform.down[row]), pad + int(transform.right[row])
        image = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    image = image.copy()
    if transform.flipped is not None and transform.flipped[row]:
        image = image[:, :, ::-1].copy()
    if transform.centre is not None:
        middle = [int(place[row]) for place in transform.centre]
        first = [place - transform.box // 2 for place in middle]
        box = [slice(max(start, 0), max(start + transform.box, 0)) for start in first]
        image[:, box[0], box[1]] = low
    return image


def origins(transform, row):
    """For each pixel of the augmented image the number of that of the original, from 1; 0: it has none."""
    numbers = np.arange(1, 1 + SHAPE[1] * SHAPE[2]).reshape(1, *SHAPE[1:])
    return augmented(numbers, transform, row, 0)[0]


def undone(perturbation, former, transform, row):
    result = former.copy()
    for place, number in np.ndenumerate(origins(transform, row)):
        if number:
            result[:, (number - 1) // SHAPE[2], (number - 1) % SHAPE[2]] = perturbation[:, place[0], place[1]]
    return result


@pytest.mark.parametrize("augmentation", KINDS, ids=repr)
def test_images_and_perturbations_are_those_of_loops_over_pixels(augmentation):
    generator = np.random.default_rng(1)
    x, moved, former = generator.random((3, 60, *SHAPE))
    transform = augmentation.draw(torch.from_numpy(x), Probes(0, CPU).at(3))
    found = transform.apply(torch.from_numpy(x), torch.tensor(-0.5)).numpy()
    back = transform.undo(torch.from_numpy(moved), torch.from_numpy(former)).numpy()
    for row in range(60):
        assert np.array_equal(found[row], augmented(x[row], transform, row, -0.5))
        assert np.array_equal(back[row], undone(moved[row], former[row], transform, row))


def test_a_range_of_its_own_for_each_channel():
    x, low = torch.ones(4, *SHAPE), torch.tensor([-1.0, -2.0]).view(1, 2, 1, 1)
    transform = Augmentation(crop_padding=4).draw(x, Probes(0, CPU).at(0))
    outside = transform.apply(x, low) != 1
    assert torch.equal(torch.where(outside, low, 1.0), transform.apply(x, low))
    assert outside[:, 0].any()
    assert torch.equal(outside[:, 0], outside[:, 1])


def test_every_crop_flip_and_box_is_drawn_equally_often():
    drawn = ALL.draw(torch.zeros(4000, *SHAPE), Probes(0, CPU).at(0))
    parts = [drawn.down, drawn.right, drawn.flipped.long(), *drawn.centre]
    for values, (first, count) in zip(parts, [(-2, 5), (-2, 5), (0, 2), (0, 5), (0, 7)], strict=True):
        found = torch.bincount(values - first, minlength=count)
        assert len(found) == count
        assert (found - 4000 / count).abs().max() < 5 * (4000 / count) ** 0.5
    pairs = torch.stack([drawn.down, drawn.right, drawn.flipped.long()]).double()
    assert torch.corrcoef(pairs).fill_diagonal_(0).abs().max() < 0.06


def test_a_draw_depends_on_seed_step_and_place_in_the_global_batch():
    x = torch.from_numpy(np.concatenate([X, X]))

    def seen(seed=0, step=5, rank=0, ranks=1):
        own = x[rank::ranks]
        return ALL.draw(own, Probes(seed, CPU).at(step, rank, ranks)).apply(own)

    whole = seen()
    for rank in range(3):
        assert torch.equal(whole[rank::3], seen(rank=rank, ranks=3))
    assert not torch.equal(whole, seen(step=6))
    assert not torch.equal(whole, seen(seed=1))


class Seen:
    """A penalty that keeps the images that it is given."""

    weight, name = 1e-9, "seen"

    def __init__(self):
        self.images = []

    def __call__(self, model, x, y):
        self.images.append(x.detach().clone().numpy())
        return model(x).pow(2).mean()


def trainer(adversary=None, penalties=(), rate=0.0, clip_values=(-1.0, 1.0), **config):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), SHAPE, 2, optimizer=optimizer, clip_values=clip_values, device_type="cpu"
    )
    config = TrainingConfig(seed=3, batch_size=10, on_catastrophic_overfitting="ignore", **config)
    return SensRegTrainer(classifier, list(penalties), config, adversary)


def steps_of(epochs, augmentation):
    """The images of each step of a run, and their transforms."""
    probes, step = Probes(derive_seed(3, "augmentation"), CPU), 0
    for epoch in range(1, epochs + 1):
        seed = derive_seed(3, "order", epoch)
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
        for indices in order.split(10):
            yield indices.numpy(), augmentation.draw(torch.from_numpy(X[indices]), probes.at(step))
            step += 1


def test_training_sees_augmented_images_and_validation_does_not():
    seen = Seen()
    made = trainer(penalties=[seen], augmentation=ALL)
    made.fit(X, Y, validation_data=(X, Y), nb_epochs=2, verbose=False)
    expected = list(steps_of(2, ALL))
    for images, (indices, transform) in zip(seen.images[-len(expected) :], expected, strict=True):
        for row, index in enumerate(indices):
            assert np.array_equal(images[row], augmented(X[index], transform, row, -1.0))
    model = made.get_classifier().model
    loss = nn.functional.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(Y))
    assert made.history[0]["val_loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert made.history[0]["loss"] != pytest.approx(loss.item(), abs=1e-3)


def test_micro_batches_see_what_one_batch_sees():
    once, twice = Seen(), Seen()
    trainer(penalties=[once], augmentation=ALL).fit(X, Y, nb_epochs=1, verbose=False)
    made = trainer(penalties=[twice], augmentation=ALL, accumulate=2)
    made.fit(X, Y, batch_size=5, nb_epochs=1, verbose=False)
    assert np.array_equal(np.concatenate(once.images[-3:]), np.concatenate(twice.images[-5:]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("free", [False, True], ids=["steps", "free"])
def test_what_is_kept_stays_with_the_pixels_of_the_original_image(tmp_path, free, norm):
    """A linear model that does not move: every step of every perturbation, pixel by pixel."""
    eps, step = 0.3, 0.1
    adversary = CarriedAdversary(eps=eps, eps_step=step, norm=norm, free=free)
    made = trainer(adversary, augmentation=ALL)
    weight = made.get_classifier().model[1].weight.detach().numpy().reshape(2, *SHAPE)
    made.fit(X, Y, nb_epochs=2, checkpoint_dir=tmp_path, verbose=False)
    memory = PerturbationMemory(adversary, len(X), torch.from_numpy(X[:1]), derive_seed(3, "perturbations"))

    def ball(perturbation):
        if norm == "linf":
            return np.clip(perturbation, -eps, eps)
        return perturbation * min(1.0, eps / max(np.linalg.norm(perturbation), 1e-12))

    for indices, transform in steps_of(2, ALL):
        former = memory.read(torch.from_numpy(indices)).numpy()
        moved = np.empty_like(former)
        for row, index in enumerate(indices):
            image = augmented(X[index], transform, row, -1.0)
            start = np.clip(image + ball(augmented(former[row], transform, row)), -1, 1) - image
            gradient = weight[1 - Y[index]] - weight[Y[index]]
            gradient = np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)
            end = np.clip(image + ball(start + step * gradient), -1, 1) - image
            moved[row] = undone(end, former[row], transform, row)
        memory.write(torch.from_numpy(indices), torch.from_numpy(moved))
    _, tree = read_newest(tmp_path)
    found, expected = tree["perturbations"], memory.state_dict()
    levels = [state["levels"].numpy().astype(int) for state in (found, expected)]
    assert np.abs(levels[0] - levels[1]).max() <= 1  # half a level may be rounded either way
    assert (levels[0] == levels[1]).mean() > 0.98
    if norm == "l2":
        torch.testing.assert_close(found["units"], expected["units"], rtol=1e-3, atol=1e-6)


class Dies(Callback):
    def on_step(self, state):
        if state.total_steps == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("adversary", [None, CarriedAdversary(eps=0.2)], ids=["plain", "carried"])
def test_a_run_that_was_broken_off_in_an_epoch_ends_like_one_that_was_not(tmp_path, adversary):
    def run(folder, resume=False, callbacks=(), augmentation=ALL):
        made = trainer(adversary, rate=0.1, augmentation=augmentation, checkpoint_every=1, callbacks=list(callbacks))
        made.fit(X, Y, nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
        return made.get_classifier().model[1].weight.detach()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", callbacks=[Dies()])
    for other in (None, Augmentation(crop_padding=1, flip=True, cutout=3)):
        with pytest.raises(ValueError, match=r"`augmentation`.*crop_padding=2"):
            run(tmp_path / "broken", resume=True, augmentation=other)
    assert torch.equal(whole, run(tmp_path / "broken", resume=True))


def test_a_run_without_does_not_resume_with_it(tmp_path):
    trainer().fit(X, Y, nb_epochs=1, checkpoint_dir=tmp_path, verbose=False)
    with pytest.raises(ValueError, match="augmentation"):
        trainer(augmentation=ALL).fit(X, Y, nb_epochs=2, checkpoint_dir=tmp_path, resume=True, verbose=False)


class Doubled(Preprocessor):
    def __init__(self):
        super().__init__(is_fitted=True, apply_fit=True, apply_predict=True)

    def __call__(self, x, y=None):
        return 2 * x, y


@pytest.mark.parametrize(
    ("augmentation", "shape", "settings", "message"),
    [
        (ALL, (70,), {}, r"inputs of shape \(70,\); expected images of shape \(channels, height, width\)"),
        (Augmentation(crop_padding=5), SHAPE, {}, "`crop_padding` of `augmentation` is 5 .* 5 x 7 .* at most 4"),
        (Augmentation(cutout=6), SHAPE, {}, "`cutout` of `augmentation` is 6 .* at most 5"),
        (ALL, SHAPE, {"channels_first": False}, "channels_first=False"),
        (ALL, SHAPE, {"preprocessing_defences": [Doubled()]}, "unit of `augmentation`"),
    ],
    ids=["vectors", "crop", "cutout", "channels last", "another unit"],
)
def test_what_cannot_be_augmented_is_refused_before_any_weight_moves(augmentation, shape, settings, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 2))
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), shape, 2, optimizer=optimizer, clip_values=(-1, 1), device_type="cpu", **settings
    )
    made = SensRegTrainer(classifier, [], TrainingConfig(augmentation=augmentation))
    with pytest.raises(ValueError, match=message):
        made.fit(X.reshape(23, *shape), Y, nb_epochs=1, verbose=False)
    assert torch.equal(model[1].weight, before)


def test_repr_rebuilds_the_call():
    config = TrainingConfig(augmentation=ALL)
    assert eval(repr(config)) == config
    assert Augmentation(crop_padding=np.int64(2), flip=True, cutout=3) == ALL
