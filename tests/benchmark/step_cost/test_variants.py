"""What is timed: targets, precisions, and what each variant computes."""

import time

import pytest
import torch

from art_sensreg.benchmark.defences import NotApplicable
from art_sensreg.benchmark.step_cost.loops import MODELS, SetUp, gradient_loop, make_bench, predict_loop
from art_sensreg.benchmark.step_cost.variants import TARGETS, UNITS, VARIANTS


def test_targets_name_what_exists():
    for name, by_model in TARGETS.items():
        assert name in VARIANTS
        assert set(by_model) <= set(MODELS)
        assert all(isinstance(bound, float) or bound in VARIANTS for bound in by_model.values())
    assert {variant.unit for variant in VARIANTS.values()} == set(UNITS)


def test_the_plain_loops_compute_what_their_variants_do():
    bench = make_bench(MODELS["cnn-small"], batch_size=4, steps=1, device="cpu")
    for loop, name in ((predict_loop, "predict"), (gradient_loop, "loss-gradient")):
        ours = torch.as_tensor(VARIANTS[name].prepare(bench)())
        torch.testing.assert_close(torch.as_tensor(loop(bench)()), ours, rtol=1e-4, atol=1e-6)


def test_what_a_training_does_before_its_first_step_is_told():
    bench = make_bench(MODELS["mlp"], batch_size=8, steps=1, device="cpu")
    run = VARIANTS["carried+sr+jr"].prepare(bench)
    for _ in range(2):  # of each call by itself
        start = time.perf_counter()
        done = run()
        assert isinstance(done, SetUp)
        assert 0 < done.seconds < time.perf_counter() - start


def test_other_precisions_are_not_for_arts_trainers():
    bench = make_bench(MODELS["mlp"], batch_size=8, steps=1, device="cpu", precision="bfloat16")
    with pytest.raises(NotApplicable, match="float32 only"):
        VARIANTS["art-madry-7"].prepare(bench)
