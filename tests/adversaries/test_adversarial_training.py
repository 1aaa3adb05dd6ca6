"""Training with adversaries."""

import pytest
import torch

from art_sensreg.adversaries import FGSMRS, NFGSM, PGD
from art_sensreg.training.validation import ValidationAttack
from tests.adversaries.helpers import ALL, NUAT, SR_JR, prototypes, trainer_of


# NuAT needs more steps than these to do better than training without an adversary.
@pytest.mark.parametrize("adversary", [adversary for adversary in ALL if adversary is not NUAT], ids=repr)
def test_training_improves_robustness(adversary):
    x, y = prototypes()
    attack = ValidationAttack(eps=adversary.eps * 2, norm=adversary.ball)
    found = []
    for chosen in (None, adversary):
        trainer = trainer_of(chosen, validation_attack=attack)
        trainer.fit(x, y, validation_data=(x, y), nb_epochs=15, batch_size=32, verbose=False)
        found.append(trainer.history[-1])
    assert found[1]["val_accuracy"] > 0.95
    assert found[1]["val_robust_accuracy"] >= found[0]["val_robust_accuracy"]
    assert ("pgd_accuracy" in found[1]) == (adversary.steps == 1)


def test_a_resumed_run_is_the_same(tmp_path):
    x, y = prototypes(100)
    weights = []
    for stops in (None, 2):
        trainer = trainer_of(FGSMRS(eps=0.1, pair="adversarial"), SR_JR)
        if stops:
            trainer.fit(x, y, nb_epochs=stops, batch_size=32, checkpoint_dir=tmp_path, verbose=False)
            trainer = trainer_of(FGSMRS(eps=0.1, pair="adversarial"), SR_JR, seed=5)
            trainer.fit(x, y, nb_epochs=4, batch_size=32, checkpoint_dir=tmp_path, resume=True, verbose=False)
        else:
            trainer.fit(x, y, nb_epochs=4, batch_size=32, verbose=False)
        assert len(trainer.history) == 4
        weights.append(torch.cat([p.detach().flatten() for p in trainer.get_classifier().model.parameters()]))
    assert torch.equal(*weights)
    trainer = trainer_of(FGSMRS(eps=0.2, pair="adversarial"), SR_JR)
    with pytest.raises(ValueError, match="adversary"):
        trainer.fit(x, y, nb_epochs=5, batch_size=32, checkpoint_dir=tmp_path, resume=True, verbose=False)


def test_wrong_adversaries_are_refused():
    with pytest.raises(TypeError, match="`adversary` is 'pgd'; expected None, or an Adversary"):
        trainer_of("pgd")
    x, y = prototypes(40)
    with pytest.raises(ValueError, match="`compile` is True"):
        trainer_of(PGD(eps=0.1), compile=True).fit(x, y, nb_epochs=1, verbose=False)


def test_training_with_a_loader(tmp_path):
    x, y = prototypes(100)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    trainer = trainer_of(NFGSM(eps=0.1))
    trainer.fit_generator(torch.utils.data.DataLoader(data, batch_size=25, shuffle=True), nb_epochs=2, verbose=False)
    assert {"pgd_accuracy", "fgsm_accuracy"} <= trainer.history[-1].keys()
