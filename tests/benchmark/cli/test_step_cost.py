"""The step-cost command: the files of a tiny run, and wrong arguments. No time is asserted."""

import json
import math

import pytest

from art_sensreg.benchmark.cli.step_cost import main
from art_sensreg.benchmark.step_cost.loops import MODELS
from art_sensreg.benchmark.step_cost.variants import VARIANTS, Variant
from tests.paths import ROOT
from tests.support.programs import exit_code

SCRIPT = ROOT / "benchmarks" / "step_cost.py"
TINY = ["--model", "mlp", "--batch-size", "8", "--repeats", "2", "--epoch-steps", "2", "--no-memory"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
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
    assert "| hoffman-plain | PyTorch epoch |" in page
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
def test_wrong_arguments_are_one_line(capsys, arguments, expected):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert arguments[0] in line
    assert expected in line


def test_a_file_as_output_folder(capsys, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "expected a folder" in capsys.readouterr().err


def test_list_names_every_model_and_variant(monkeypatch, capsys):
    assert exit_code(monkeypatch, SCRIPT, "--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "Models:",
        *MODELS,
        "Variants:",
        *VARIANTS,
    ]


def test_the_exit_code_says_that_one_of_ours_failed(monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("it broke")

    monkeypatch.setitem(VARIANTS, "plain", Variant("plain", "-", lambda bench: fail))
    out = tmp_path / "run"
    assert main([*TINY, "--variants", "plain", "--out", str(out)]) == 1
    (model,) = results(out)["models"]
    assert [record["status"] for record in model["variants"]] == ["error"]
