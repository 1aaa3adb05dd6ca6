"""`benchmarks/step_cost.py`: the files of a tiny run, wrong arguments, the plain loops. No time is asserted."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from art_sensreg.benchmark.defences.train_spec import NotApplicable
from art_sensreg.benchmark.step_cost.loops import (
    MODELS,
    fgsm_step,
    hoffman_penalty,
    hoffman_step,
    lean_epoch,
    lean_gradient,
    lean_predict,
    make_bench,
)
from art_sensreg.benchmark.step_cost.memory import memory_in_child
from art_sensreg.benchmark.step_cost.report import cost_table, note_lines
from art_sensreg.benchmark.step_cost.timing import summarise
from art_sensreg.benchmark.step_cost.variants import TARGETS, UNITS, VARIANTS, Variant
from tests.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "step_cost.py"
TINY = ["--model", "mlp", "--batch-size", "8", "--repeats", "2", "--epoch-steps", "2", "--no-memory"]


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("step_cost_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def finished(main, tmp_path_factory):
    out = tmp_path_factory.mktemp("step-cost") / "run"
    assert main([*TINY, "--variants", "plain,sr+jr,hoffman-plain,predict", "--out", str(out)]) == 0
    return out


def results(out):
    return json.loads((out / "step-cost.json").read_text())


def test_files_of_a_run(finished):
    assert sorted(path.name for path in finished.iterdir()) == ["step-cost.json", "step-cost.md", "step-cost.png"]
    assert (finished / "step-cost.png").read_bytes().startswith(b"\x89PNG")
    page = (finished / "step-cost.md").read_text()
    assert "python benchmarks/step_cost.py --model mlp --batch-size 8" in page
    assert "| hoffman-plain | lean epoch |" in page
    assert str(finished) not in page + (finished / "step-cost.json").read_text()


def test_schema(finished):
    data = results(finished)
    assert set(data) == {"schema", "command", "config", "environment", "minutes", "models"}
    assert {"python", "torch", "numpy", "art", "device", "threads"} <= set(data["environment"])
    (model,) = data["models"]
    assert (model["model"], model["epoch_steps"]) == ("mlp", 2)
    assert set(model["lean_seconds"]) == {"epoch", "predict"}
    assert [record["variant"] for record in model["variants"]] == ["plain", "sr+jr", "hoffman-plain", "predict"]
    for record in model["variants"]:
        assert (record["status"], record["reason"], record["memory"]) == ("ok", "", [])
        assert len(record["ratios"]) == len(record["seconds"]) == 2
        low, high = record["quartiles"]
        assert 0 < low <= record["ratio"] <= high
        assert all(math.isfinite(value) and value > 0 for value in record["ratios"])
        assert record["met"] is (None if record["target"] is None else record["ratio"] <= record["target"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "alexnet"], "mlp, cnn-small"),
        (["--variants", "plain,nothing"], "sr+jr"),
        (["--device", "tpu"], "cpu"),
        (["--repeats", "0"], "at least 1"),
        (["--epoch-steps", "many"], "at least 1"),
        (["--batch-size", "1"], "at least 2"),
        (["--precision", "float8"], "bfloat16"),
        (["--threads", "-1"], "at least 1"),
        (["--speed"], "--speed"),
    ],
)
def test_wrong_arguments_are_one_line(main, capsys, arguments, expected):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert arguments[0] in line
    assert expected in line


def test_a_file_as_output_folder(main, capsys, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "expected a folder" in capsys.readouterr().err


def test_list_names_every_model_and_variant():
    done = subprocess.run([sys.executable, SCRIPT, "--list"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["Models:", *MODELS, "Variants:", *VARIANTS]


def test_what_does_not_run_has_its_reason(main, monkeypatch, tmp_path):
    def refuse(bench):
        raise NotApplicable("it is not there")

    def fail(bench):
        raise RuntimeError("it\nbroke in /some/folder/file.py")

    monkeypatch.setitem(VARIANTS, "art-fit", Variant("art-fit", "-", refuse, ours=False))
    monkeypatch.setitem(VARIANTS, "plain", Variant("plain", "-", lambda bench: lambda: fail(bench)))
    out = tmp_path / "run"
    assert main([*TINY, "--variants", "plain,art-fit,fgsm", "--out", str(out)]) == 1
    (model,) = results(out)["models"]
    assert [record["status"] for record in model["variants"]] == ["error", "not_applicable", "ok"]
    assert note_lines(model) == [
        "plain: failed: RuntimeError: it broke in file.py",
        "art-fit: not available: it is not there",
    ]
    assert cost_table(model).rows[0][-1] == "failed: RuntimeError: it broke in file.py"


def test_targets_name_what_exists():
    for name, by_model in TARGETS.items():
        assert name in VARIANTS
        assert set(by_model) <= set(MODELS)
        assert all(isinstance(bound, float) or bound in VARIANTS for bound in by_model.values())
    assert {variant.unit for variant in VARIANTS.values()} == set(UNITS)


def test_a_target_can_be_another_variant():
    records = [
        {"variant": "jr-projection", "status": "ok", "ratios": [2.0, 2.2, 2.1]},
        {"variant": "hoffman-plain", "status": "ok", "ratios": [2.0]},
    ]
    summarise("mlp", records)
    assert (records[0]["target"], records[0]["target_variant"], records[0]["met"]) == (2.0, "hoffman-plain", False)
    summarise("mlp", records[:1])
    assert (records[0]["target"], records[0]["met"]) == (None, None)


def test_hoffman_penalty_is_half_the_squared_norm_in_expectation():
    model = nn.Linear(6, 4)
    x = torch.rand(20000, 6, requires_grad=True)
    expected = model.weight.pow(2).sum() / 2
    # One projection has a relative standard deviation below sqrt(2): 0.03 is three of the mean's.
    torch.testing.assert_close(hoffman_penalty(model(x), x), expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_hoffman_and_fgsm_steps_train(precision):
    bench = make_bench(MODELS["mlp"], batch_size=8, steps=2, device="cpu", precision=precision)
    for step in (hoffman_step, fgsm_step):
        loss, accuracy = lean_epoch(bench, step)()
        assert math.isfinite(loss)
        assert 0 <= accuracy <= 1


def test_lean_loops_compute_what_their_variants_do():
    bench = make_bench(MODELS["cnn-small"], batch_size=4, steps=1, device="cpu")
    for lean, name in ((lean_predict, "predict"), (lean_gradient, "loss-gradient")):
        ours = torch.as_tensor(VARIANTS[name].prepare(bench)())
        torch.testing.assert_close(torch.as_tensor(lean(bench)()), ours, rtol=1e-4, atol=1e-6)


def test_other_precisions_are_not_for_arts_trainers():
    bench = make_bench(MODELS["mlp"], batch_size=8, steps=1, device="cpu", precision="bfloat16")
    with pytest.raises(NotApplicable, match="float32 only"):
        VARIANTS["art-madry-7"].prepare(bench)


def test_memory_is_measured_in_a_process_of_its_own():
    rises = memory_in_child(SCRIPT, "plain", "mlp", batch_size=8, precision="float32", threads=1)
    assert [rise["steps"] for rise in rises] == [2, 8]
    assert all(rise["megabytes"] >= 0 for rise in rises)
    with pytest.raises(RuntimeError, match="invalid choice"):
        memory_in_child(SCRIPT, "nothing", "mlp", batch_size=8, precision="float32", threads=1)
