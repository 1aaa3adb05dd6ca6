"""Free training against algorithm 1 of its paper, in plain torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import Augmentation, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import Free
from tests.training.helpers import StopAfter, X, Y, batches_of, close, small_model

EPS, REPLAYS = 0.2, 3


def trainer_of(model, **config):
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        (4,),
        3,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        device_type="cpu",
        penalties=[],
    )
    settings = {"seed": 0, "batch_size": 9, "on_catastrophic_overfitting": "ignore", **config}
    return SensRegTrainer(classifier, [], TrainingConfig(**settings), Free(eps=EPS, replays=REPLAYS))


def fit(model, folder=None, **config):
    trainer = trainer_of(model, **config)
    trainer.fit(X, Y, nb_epochs=2, checkpoint_dir=folder, resume=folder is not None, verbose=False)
    return [parameter.detach().clone() for parameter in model.parameters()]


def by_hand(model, epochs):
    """One perturbation, place by place in a batch, from batch to batch (of 9, 9 and 6 images)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    delta = torch.zeros(9, 4)
    for rows in batches_of(0, epochs, 9):
        for _ in range(REPLAYS):
            own = delta[: len(rows)].clone().requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows] + own), y[rows]).backward()
            optimizer.step()
            delta[: len(rows)] = (own.detach() + EPS * own.grad.sign()).clamp(-EPS, EPS)
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("after", [4, 12])  # in the middle of a batch's replays, and between two batches
def test_training_is_that_of_the_paper_and_resumes(tmp_path, after):
    ours = fit(small_model())
    assert close(ours, by_hand(small_model(), 2))
    stopped = fit(small_model(), tmp_path, callbacks=[StopAfter(after)])
    assert not all(map(torch.equal, ours, stopped))
    assert all(map(torch.equal, ours, fit(small_model(), tmp_path)))


def test_an_epoch_has_as_many_steps_as_batches_times_replays():
    trainer = trainer_of(small_model(), callbacks=[counter := StopAfter(10**9)])
    seen = []
    counter.on_step = lambda state: seen.append(state.step)
    trainer.fit(X, Y, nb_epochs=2, verbose=False)
    assert seen == [*range(1, 10)] * 2


def test_the_replays_of_a_batch_are_augmented_alike():
    seen, images = [], torch.rand(6, 1, 4, 4).numpy()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (1, 4, 4), 3, optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device_type="cpu", penalties=[],
    )  # fmt: skip
    config = TrainingConfig(
        seed=0, batch_size=6, augmentation=Augmentation(crop_padding=3), on_catastrophic_overfitting="ignore"
    )
    trainer = SensRegTrainer(classifier, [], config, Free(eps=1e-4, replays=REPLAYS))
    seen.clear()
    trainer.fit(images, Y[:6] % 3, nb_epochs=2, verbose=False)
    steps = [x for x in seen if len(x) == 6][-2 * REPLAYS :]
    first, second = steps[:REPLAYS], steps[REPLAYS:]
    for batch in (first, second):
        assert all(torch.allclose(x, batch[0], atol=1e-3) for x in batch)
    assert not torch.allclose(first[0].sum((1, 2, 3)).sort()[0], second[0].sum((1, 2, 3)).sort()[0], atol=1e-2)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="`free` is False; expected True"):
        Free(eps=0.1, free=False)
    with pytest.raises(ValueError, match="`replays` is 0"):
        Free(eps=0.1, replays=0)
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=8)
    with pytest.raises(ValueError, match=r"`adversary` is Free\(.*got a loader, expected `fit`"):
        trainer_of(small_model()).fit_generator(loader, nb_epochs=1, verbose=False)
