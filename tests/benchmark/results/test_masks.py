"""Outcomes image by image, and what all attacks together leave."""

import os

import numpy as np
import pytest

from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.results.entries import AttackRecord
from art_sensreg.benchmark.results.masks import (
    has_mask,
    joint_outcome,
    mask_name,
    read_mask,
    summarised,
    worst_case,
    write_mask,
)
from art_sensreg.utils.stats import wilson_interval
from tests.support.results import attacked, run_record


def test_worst_case_is_the_mean_of_minima_and_not_the_minimum_of_means(tmp_path):
    attacks = [
        attacked(tmp_path, name, robust) for name, robust in (("fgm", [1, 1, 0, 0, 1]), ("pgd", [0, 1, 1, 0, 1]))
    ]
    failed = AttackRecord(attack="square", norm="linf", eps=0.1)
    run = summarised(tmp_path, run_record(attacks=(*attacks, failed)), (Threat("linf", (0.1, 0.2)),))
    (case,) = run.worst_case
    assert case.robust_accuracy == 0.4  # each attack alone leaves 0.6
    assert (case.ci_low, case.ci_high) == wilson_interval(2, 5)
    assert case.n == 5
    assert worst_case(tmp_path, run, ("linf", 0.1)) == case
    assert worst_case(tmp_path, run, ("linf", 0.1), n=2).robust_accuracy == 0.5


def test_an_attack_says_nothing_of_images_that_it_was_not_run_on(tmp_path):
    """Whatever stands for them in its mask."""
    (tmp_path / "masks").mkdir()
    for name, beyond in (("false", False), ("true", True)):
        write_mask(tmp_path, f"masks/{name}.npz", np.array([True, False, beyond, beyond]), np.array([1, 1, 0, 0], bool))
    write_mask(tmp_path, "masks/all.npz", np.array([True, True, True, False]), np.ones(4, bool))
    for name in ("false", "true"):
        attacks = [
            AttackRecord(
                attack=one, norm="linf", eps=0.1, status="ok", robust_accuracy=0.5, n=n, mask=f"masks/{one}.npz"
            )
            for one, n in ((name, 2), ("all", 4))
        ]
        case = worst_case(tmp_path, run_record(attacks=tuple(attacks)), ("linf", 0.1))
        assert (case.robust_accuracy, case.n) == (0.5, 4)


def test_what_nothing_attacked_is_not_counted_as_left(tmp_path):
    attack = attacked(tmp_path, "pgd", [1, 0, 1], [1, 1, 0])
    robust, tried = joint_outcome(tmp_path, [attack], ("linf", 0.1))
    assert (robust.tolist(), tried.tolist()) == ([True, False, False], [True, True, False])


def test_the_union_is_what_no_norm_broke(tmp_path):
    attacks = (
        attacked(tmp_path, "pgd", [1, 1, 0, 1, 1], [1, 1, 1, 1, 0]),
        attacked(tmp_path, "pgd", [1, 0, 1, 1, 1], norm="l2", eps=0.5),
        attacked(tmp_path, "pgd", [0, 0, 0, 0, 0], eps=0.2),
    )
    threats = (Threat("linf", (0.1, 0.2)), Threat("l2", (0.5, 1.0)))
    run = summarised(tmp_path, run_record(attacks=attacks), threats)
    (union,) = run.union  # nothing was attacked at the second size of l2
    assert union.eps == {"linf": 0.1, "l2": 0.5}
    assert (union.robust_accuracy, union.n) == (0.5, 4)  # the fifth image was not attacked in both norms
    assert (union.ci_low, union.ci_high) == wilson_interval(2, 4)
    assert [case.robust_accuracy for case in run.worst_case] == [0.75, 0.0, 0.8]


def test_masks_of_strangers_are_not_read(tmp_path):
    out = tmp_path / "run"
    good = attacked(out, "fgm", [1, 1, 1]).mask
    np.savez(tmp_path / "secret.npz", robust=np.ones(3, bool), attacked=np.ones(3, bool))
    folder = out / "masks"
    (folder / "link.npz").symlink_to(tmp_path / "secret.npz")
    os.mkfifo(folder / "pipe.npz")
    np.savez(folder / "numbers.npz", robust=np.arange(3), attacked=np.ones(3, bool))
    np.savez(folder / "lengths.npz", robust=np.ones(2, bool), attacked=np.ones(3, bool))
    np.savez(folder / "objects.npz", robust=np.array([None]), attacked=np.ones(1, bool))
    names = ["../secret.npz", f"{tmp_path}/secret.npz", "masks/../../secret.npz", "masks/missing.npz", None, 3]
    names += [f"masks/{name}.npz" for name in ("link", "pipe", "numbers", "lengths", "objects")]
    assert not any(has_mask(out, name) for name in names)
    assert has_mask(out, good, 3)
    assert not has_mask(out, good, 4)
    with pytest.raises(ValueError, match="is not a file in masks/"):
        read_mask(out, "../secret.npz")


def test_names_that_differ_in_a_dash_have_masks_of_their_own(tmp_path):
    (tmp_path / "masks").mkdir()
    one, other = (np.full(3, value) for value in (True, False))
    names = [mask_name(name, "seed0", "pgd") for name in ("my-at", "my_at")]
    for name, robust in zip(names, (one, other), strict=True):
        write_mask(tmp_path, name, robust, one)
    assert read_mask(tmp_path, names[0])[0].all()
    assert not read_mask(tmp_path, names[1])[0].any()
