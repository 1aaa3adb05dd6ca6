"""Preprocessing defences: ART's default attack and BPDA/EOT side by side, and every attack of the default budgets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing

from art_sensreg.benchmark.attacks import ATTACKS, default_attacks
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.from_art import preprocessing as preprocessing_rows
from art_sensreg.benchmark.defences.from_art.preprocessing import PREPROCESSING, NotApplicable, median_filter
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.benchmark.engine.target import make_target

SMALL = ["--train-size", "300", "--test-size", "30", "--epochs", "4", "--model", "mlp", "--quiet"]
BY_NAME = {defence.name: defence for defence in PREPROCESSING}
RANDOM = [name for name, defence in BY_NAME.items() if defence.preprocessing.samples]
STRENGTH = {
    "max_iter": 3, "restarts": 1, "binary_search_steps": 2, "max_eval": 20, "queries": 5,
    "nb_iter": 3, "nb_queries": 5, "nb_restarts": 1, "eot_iter": 1, "seed": 0,
}  # fmt: skip


def run(out, *arguments):
    return main([*SMALL, "--out", str(out), *arguments])


def results(out):
    return json.loads((Path(out) / "results.json").read_text())


@pytest.fixture(scope="module")
def spec(digits):
    return TrainingSpec(
        dataset=digits, model="mlp", activation="relu", norm_layer="none", seed=0, epochs=1, batch_size=64,
        learning_rate=3e-3, norm="linf", eps=0.1, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(spec):
    classifier = spec.classifier()
    classifier.fit(spec.dataset.x_train, spec.dataset.y_train, nb_epochs=5, batch_size=64, seed=0)
    return classifier


def target_of(spec, model, name, **changes):
    defence = BY_NAME[name]
    defence = replace(defence, preprocessing=replace(defence.preprocessing, **changes))
    return make_target(spec, model, defence, defence.options)


@pytest.fixture(scope="module")
def targets(spec, model):
    """Each is prepared once: what EOT measures of a slow preprocessor takes long."""
    return {
        name: target_of(spec, model, name, **({"samples": {"smoke": 2}} if name in RANDOM else {})) for name in BY_NAME
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "run"
    names = "quantise,none,art-gaussian-augmentation,art-spatial-smoothing"
    assert run(out, "--defences", names, "--attacks", "fgm,pgd,square,apgd-t", "--eps", "0.2") == 0
    return out


def test_both_ways_of_attacking_are_shown_side_by_side(finished):
    data = results(finished)
    for entry in data["runs"]:
        keys = [(row["attack"], row["norm"], row["eps"], row["view"]) for row in entry["attacks"]]
        assert len(set(keys)) == len(keys)
        seen = {(row["attack"], row["view"]) for row in entry["attacks"]}
        both = {(attack, view) for attack in ("fgm", "pgd", "square") for view in ("default", "adaptive")}
        wanted = {(attack, "default") for attack in ("fgm", "pgd", "square", "apgd-t")}
        assert seen == (wanted if entry["defence"] == "none" else {*both, ("apgd-t", "adaptive")})
        masks = []
        for row in entry["attacks"]:
            with np.load(finished / row["mask"]) as file:
                masks.append(file["robust"])
        (case,) = entry["worst_case"]
        assert case["robust_accuracy"] == np.minimum.reduce(masks).mean()  # counts both
    for name in ("report.md", "report.html"):
        page = (finished / name).read_text()
        assert "as ART attacks it" in page
        assert "quantise (adaptive)" in page


def test_rounding_stops_arts_attack_and_not_bpda(finished):
    entry = next(entry for entry in results(finished)["runs"] if entry["defence"] == "quantise")
    left = {(row["attack"], row["view"]): row["robust_accuracy"] for row in entry["attacks"]}
    assert left["pgd", "default"] > entry["clean_accuracy"] - 0.2
    assert left["pgd", "adaptive"] < 0.1


def test_the_model_is_that_of_none(finished):
    runs = {entry["defence"]: entry for entry in results(finished)["runs"]}
    weights = [(finished / "checkpoints" / f"{name}-seed0.safetensors").read_bytes() for name in runs]
    assert len(set(weights)) == 1
    # `quantise` came first and trained it; those after `none` took its model and what that cost.
    assert runs["art-spatial-smoothing"]["train_seconds"] == runs["none"]["train_seconds"]
    assert runs["quantise"]["train_seconds"] != runs["none"]["train_seconds"]


def test_random_defences_are_scored_with_fresh_draws(finished):
    entry = next(entry for entry in results(finished)["runs"] if entry["defence"] == "art-gaussian-augmentation")
    for row in entry["attacks"]:
        figures = row["random"]
        assert set(figures) == {"single_draw", "single_draw_spread", "mean", "mean_spread", "repeats"}
        assert 0 <= figures["single_draw"] <= 1
        assert abs(figures["mean"] - row["robust_accuracy"]) < 0.2
    assert any(row["random"]["single_draw_spread"] > 0 for row in entry["attacks"])


def test_a_preprocessing_run_can_be_resumed(finished):
    before = results(finished)
    names = "quantise,none,art-gaussian-augmentation,art-spatial-smoothing"
    assert run(finished, "--defences", names, "--attacks", "fgm,pgd,square,apgd-t", "--eps", "0.2", "--resume") == 0
    assert results(finished)["runs"] == before["runs"]


@pytest.mark.parametrize("attack", default_attacks("quick"))
@pytest.mark.parametrize("name", BY_NAME)
def test_every_default_attack_runs_through_every_preprocessor(spec, model, targets, name, attack):
    preprocessed = targets[name]
    x, y = spec.dataset.x_test[:3], np.eye(10, dtype=np.float32)[spec.dataset.y_test[:3]]
    guides = (spec.dataset.x_train[:20], spec.dataset.y_train[:20])
    views = preprocessed.views if ATTACKS[attack].art else preprocessed.views[1:]
    for norm in ("linf", "l2") if name not in RANDOM else ("linf",):
        for view in views:
            settings = {**STRENGTH, "guides": guides, "surrogates": [model]}
            x_adv = ATTACKS[attack].build(preprocessed.classifier(view), NORMS[norm], 0.3, settings).generate(x, y=y)
            assert x_adv.shape == x.shape
            # ART's Square divides by zero on blank parts of images; the suite counts such images as not broken.
            assert np.isfinite(x_adv).all() or attack == "square"
            x_adv = np.nan_to_num(x_adv).clip(0, 1)
            assert preprocessed.score(x_adv.astype(np.float32), y.argmax(1), 0).correct.shape == (3,)


@pytest.mark.parametrize("name", BY_NAME)
def test_both_views_compute_the_same_function(spec, model, name):
    target = target_of(spec, model, name)
    classifiers = [target.classifier(view) for view in target.views]
    x = spec.dataset.x_test[:20]
    outputs = []
    for classifier in classifiers:
        np.random.seed(0)
        torch.manual_seed(0)
        outputs.append(classifier.predict(x))
    if name in RANDOM:
        assert not np.array_equal(outputs[0], classifiers[0].predict(x))
    else:
        np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)


def test_the_median_surrogate_is_arts_median(digits):
    x = digits.x_test[:10]
    for window in (3, 5):
        art = SpatialSmoothing(window, channels_first=True)(x)[0]
        mine = median_filter(window)(torch.from_numpy(x)).numpy()
        inner = (..., slice(window // 2, -(window // 2)), slice(window // 2, -(window // 2)))
        np.testing.assert_allclose(mine[inner], art[inner], atol=1e-6)


def test_total_variation_smooths_images_and_not_channels(spec):
    defence = BY_NAME["art-total-var-min"]
    operation = defence.preprocessing.make(spec, {**defence.options, "prob": 0.3, "lamb": 0.5})
    x = np.random.default_rng(0).random((2, 1, 8, 8)).astype(np.float32)
    smooth, _ = operation(x)
    assert smooth.shape == x.shape
    for axis in (2, 3):
        assert np.abs(np.diff(smooth, axis=axis)).mean() < 0.6 * np.abs(np.diff(x, axis=axis)).mean()


def test_what_cannot_run_says_why(spec, monkeypatch):
    monkeypatch.setattr(preprocessing_rows, "find_spec", lambda name: None)
    with pytest.raises(NotApplicable, match="needs Pillow"):
        target_of(spec, spec.classifier(), "art-jpeg")


def test_options_of_a_preprocessor_are_set_and_checked(tmp_path, capsys):
    arguments = ["--defences", "art-jpeg", "--attacks", "fgm"]
    assert run(tmp_path / "run", *arguments, "--set", "art-jpeg.quality=5") == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert entry["status"] == "ok"
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "other", *arguments, "--set", "art-jpeg.quality=0")
    assert stop.value.code == 2
    assert "`quality` is 0; expected a whole number of at least 1" in capsys.readouterr().err
