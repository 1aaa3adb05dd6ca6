"""GradDiv on random networks: fixed draws, what is trained, what is chosen, and what is stored."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.studies import graddiv_bases
from art_sensreg.benchmark.studies.graddiv_bases import (
    DRAWS,
    NOISE,
    Candidate,
    FixedDraws,
    bases_table,
    chosen,
    measure,
    run_bases,
    with_diversity,
)
from art_sensreg.penalties import GradientDiversityPenalty
from tests.benchmark.defences.from_art.training import small_spec


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def candidate(base="rse", weight=0.0, clean=0.9, robust=0.5, factor=1.0, seed=0):
    shares = {str(count): robust for count in DRAWS}
    return Candidate(
        base=base, factor=factor, weight=weight, seed=seed, cosine=0.5, clean=clean, own=shares, others=shares
    )  # fmt: skip


def test_draws_are_fixed_and_averaged():
    x, by_hand = torch.rand(3, 4), []
    for seed in (5, 7):
        torch.manual_seed(seed)
        by_hand.append(x + torch.randn(3, 4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fixed = FixedDraws(Noisy(), (5, 7))
    assert torch.allclose(fixed(x), (by_hand[0] + by_hand[1]) / 2)
    assert torch.equal(fixed(x), fixed(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("base", NOISE)
def test_each_base_is_trained_with_graddiv_beside_its_own(digits, base):
    assert with_diversity(base, 0.0) is DEFENCES[base]
    assert set(NOISE[base]) <= set(DEFENCES[base].options)
    defence = with_diversity(base, 0.2)
    if defence.penalties is not None:
        penalties = defence.penalties({})
    else:
        spec = small_spec(digits)
        options = {**DEFENCES[base].options, "eps": 0.1, "norm": "linf", "kl_weight": 0.1}
        trainer = defence.trainer(spec.classifier(defence.new_model(spec, options)), spec, options)
        penalties = trainer.penalties
        assert trainer.adversary is not None
        assert trainer.config.penalty_warmup == 0.5
        assert len(penalties) == 2
    assert isinstance(penalties[-1], GradientDiversityPenalty)
    assert penalties[-1].weight == 0.2


def test_the_best_among_those_that_keep_clean_accuracy_is_chosen():
    found = [
        candidate(clean=0.95, robust=0.5), candidate(clean=0.945, robust=0.6, factor=2.0),
        candidate(clean=0.9, robust=0.9, factor=0.5), candidate(weight=0.1, clean=0.8, robust=0.7),
        candidate(base="pni", robust=1.0),
    ]  # fmt: skip
    assert chosen(found, "rse", diverse=False).factor == 2.0
    assert chosen(found, "rse", diverse=True).weight == 0.1  # there is no other


def test_what_is_measured_is_stored_and_not_measured_again(tmp_path, digits, monkeypatch):
    calls = []

    def measured(dataset, setting, epochs, points):
        calls.append(setting)
        base, factor, weight, seed = setting
        return candidate(base=base, factor=factor, weight=weight, seed=seed, robust=0.5 + weight - 0.01 * factor)

    monkeypatch.setattr(graddiv_bases, "measure", measured)
    path = tmp_path / "bases.json"
    tried, found = run_bases(digits, path, epochs=1, seeds=2, points=5, say=lambda line: None)
    assert len(tried) == len(set(calls[: len(tried)])) == 3 * 3 * 4
    assert [one.key for one in found[:4]] == [("rse", 0.5, w, s) for w in (0.0, 0.2) for s in (0, 1)]
    calls.clear()
    stored = json.loads(path.read_text())
    dropped = stored["test"].pop()
    path.write_text(json.dumps(stored))
    again = run_bases(digits, path, epochs=1, seeds=2, points=5, say=lambda line: None)
    assert again == (tried, found)
    assert calls == [("pni", 0.5, 0.2, 1)] == [tuple(dropped[name] for name in ("base", "factor", "weight", "seed"))]
    with pytest.raises(ValueError, match=r"bases.json is of a study with \{'epochs': 1, 'points': 5\}"):
        run_bases(digits, path, epochs=2, seeds=2, points=5, say=lambda line: None)
    row = bases_table(found).rows[0]
    assert row[:3] == ["rse", "0.5", "0"]
    assert row[5] == "49.5 / 49.5"


def test_a_network_is_attacked_on_few_draws(digits):
    small = digits.limited(train_size=64, test_size=6)
    found = measure(small, ("rse", 2.0, 0.1, 0), epochs=1, points=6)
    assert found.key == ("rse", 2.0, 0.1, 0)
    assert set(found.own) == set(found.others) == {"1", "2", "4", "16"}
    assert all(0 <= share <= 1 for share in (*found.own.values(), *found.others.values(), found.clean))
    assert np.isfinite(found.cosine)
