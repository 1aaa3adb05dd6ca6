"""`benchmarks/audit.py`, and `--audit` in the suite: what they use, what they write, wrong arguments."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from art_sensreg.auditing import CHECKS
from art_sensreg.benchmark.cli import audit as audit_cli
from art_sensreg.benchmark.cli import suite as cli
from art_sensreg.benchmark.engine import audit_run, suite

SMALL = ["--train-size", "300", "--epochs", "2", "--model", "mlp", "--quiet"]
# Two that need the model alone, and two that need others.
FEW = ["--checks", "eval_mode,inputs_in_range,transfer_from_twin,transfer_from_surrogates"]


def audited(out, *arguments):
    code = audit_cli.main([*arguments, "--quick", "--points", "60", "--quiet", "--out", str(out)])
    return code, json.loads((out / "audit.json").read_text())


def statuses(report):
    return {check["name"]: check["status"] for check in report["checks"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "run"
    arguments = ["--defences", "none,sr,art-fbf-fixed", "--attacks", "fgm", "--test-size", "60", "--audit"]
    assert cli.main([*SMALL, *arguments, "--out", str(out)]) == 0
    return out


def test_the_suite_audits_every_model(finished):
    runs = json.loads((finished / "results.json").read_text())["runs"]
    for run in runs:
        assert list(statuses(run["audit"])) == list(CHECKS)
        assert "ERROR" not in statuses(run["audit"]).values()
    by_name = {run["defence"]: statuses(run["audit"]) for run in runs}
    assert by_name["sr"]["transfer_from_twin"] != "SKIP"
    assert by_name["sr"]["transfer_from_surrogates"] != "SKIP"
    page = (finished / "report.md").read_text()
    for run in runs:
        assert run["audit"]["verdict"] in page


def test_weights_of_a_run_are_audited_with_their_twin_and_surrogates(finished, tmp_path, capsys):
    code, report = audited(tmp_path / "out", "--checkpoint", str(finished / "checkpoints" / "sr-seed0.safetensors"))
    assert code == 0
    assert list(statuses(report)) == list(CHECKS)
    assert statuses(report)["transfer_from_twin"] != "SKIP"
    assert statuses(report)["transfer_from_surrogates"] != "SKIP"
    assert report["settings"]["points"] == 60
    assert "<title>Audit: " in (tmp_path / "out" / "audit.html").read_text()
    page = (tmp_path / "out" / "audit.md").read_text()
    assert "sr-seed0.safetensors on digits, mlp" in page
    assert report["verdict"] in page
    assert report["verdict"] in capsys.readouterr().out


def test_weights_alone(finished, tmp_path):
    alone = tmp_path / "mine.safetensors"
    shutil.copy(finished / "checkpoints" / "sr-seed0.safetensors", alone)
    given = ["--checkpoint", str(alone), "--model", "mlp", "--eps", "0.07", *FEW]
    _, report = audited(tmp_path / "out", *given)
    assert report["settings"]["eps"] == 0.07
    assert statuses(report)["transfer_from_twin"] == "SKIP"
    _, report = audited(tmp_path / "out", *given, "--twin", str(finished / "checkpoints" / "none-seed0.safetensors"))
    assert "SKIP" not in statuses(report).values()


@pytest.mark.parametrize("audited_one", ["mine", "art-fbf-fixed-seed0"])
def test_models_named_on_the_command_line_come_first(finished, tmp_path, monkeypatch, audited_one):
    """All of them, whatever the name of the audited file and what lies beside it."""
    models = finished / "checkpoints"
    file = models / f"{audited_one}.safetensors"
    if audited_one == "mine":
        file = tmp_path / "mine.safetensors"
        shutil.copy(models / "sr-seed0.safetensors", file)
    others = [models / f"{name}-seed0.safetensors" for name in ("sr", "none", "sr")]
    seen = {}

    def stands_in(classifier, x, y, **arguments):
        seen.update(arguments)
        raise ValueError("seen")

    monkeypatch.setattr(audit_run, "audit", stands_in)
    words = ["--checkpoint", str(file), "--model", "mlp", "--twin", str(others[0]), "--quiet"]
    with pytest.raises(SystemExit):
        audit_cli.main([*words, *(word for other in others for word in ("--surrogate", str(other)))])
    wanted = [load_file(other) for other in others]
    for classifier, weights in zip([seen["twin"], *seen["surrogates"]], [wanted[0], *wanted], strict=True):
        state = classifier.model.state_dict()
        assert all(torch.equal(state[name].cpu(), value) for name, value in weights.items())


def test_a_defence_is_trained_and_audited(tmp_path):
    arguments = ["--defence", "sr", "--train-size", "300", "--epochs", "2", "--model", "mlp", *FEW]
    code, report = audited(tmp_path / "out", *arguments)
    assert code == 0
    assert len(statuses(report)) == 4
    assert "SKIP" not in statuses(report).values()
    weights = sorted((tmp_path / "out" / "checkpoints").glob("*.safetensors"))
    assert [path.name for path in weights] == [f"{name}-seed0.safetensors" for name in ("art-fbf-fixed", "none", "sr")]
    before = [path.stat().st_mtime_ns for path in weights]
    assert audited(tmp_path / "out", *arguments)[1]["verdict"] == report["verdict"]
    assert [path.stat().st_mtime_ns for path in weights] == before  # trained once


def test_the_list_names_every_check(capsys):
    assert audit_cli.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and check.source in " ".join(shown.split()) for name, check in CHECKS.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere.safetensors"], "`--checkpoint`: there is no file nowhere.safetensors"),
        (["--defence", "sr", "--seed", "-1"], "`--seed` is -1; expected a whole number of at least 0"),
        (["--defence", "sr", "--eps", "0"], "--eps"),
        (["--defence", "magic"], "magic"),
        (["--defence", "sr", "--checks", "magic"], "magic"),
        (["--defence", "art-fbf-fixed", "--norm", "l2", "--train-size", "100"], "cannot be trained here"),
        (["--model", "my_net.py:build", "--epochs", "5"], "`--epochs` was given without `--defence`"),
        ([], "one of the arguments"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        audit_cli.main([*arguments, "--quiet", *(["--out", str(tmp_path / "out")] if arguments else [])])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "audit.json").exists()


def test_other_weights_are_named(tmp_path, finished, capsys):
    file = str(finished / "checkpoints" / "sr-seed0.safetensors")
    shutil.copy(file, tmp_path / "mine.safetensors")
    with pytest.raises(SystemExit):
        audit_cli.main(["--checkpoint", str(tmp_path / "mine.safetensors"), "--model", "lenet", "--quiet"])
    assert "does not hold the weights of lenet for digits" in capsys.readouterr().err


def test_an_audit_that_fails_is_reported_and_made_up_for(tmp_path, monkeypatch):
    def breaks(*arguments, **settings):
        raise RuntimeError("no audit")

    arguments = [*SMALL, "--defences", "none", "--attacks", "fgm", "--test-size", "60", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(suite, "audit_target", breaks)
    assert cli.main([*arguments, "--audit"]) == 1
    (run,) = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    assert (run["status"], run["reason"]) == ("error", "audit: RuntimeError: no audit")
    assert run["worst_case"]
    fine = {"verdict": "no failure detected", "checks": []}
    monkeypatch.setattr(suite, "audit_target", lambda *_, **__: SimpleNamespace(to_dict=lambda: fine))
    assert cli.main([*arguments, "--audit", "--resume"]) == 0
    (run,) = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    assert (run["status"], run["audit"]) == ("ok", fine)


@pytest.mark.slow
def test_a_defence_of_art_that_hides_its_gradient_is_found(tmp_path):
    arguments = ["--checks", "eval_mode,gradients_not_zero,logit_scale_matters_little", "--epochs", "12"]
    _, report = audited(tmp_path / "out", "--defence", "art-distillation-fixed", *arguments)
    assert statuses(report)["eval_mode"] == "PASS"
    assert statuses(report)["gradients_not_zero"] == "FAIL"
    assert "do not trust" in report["verdict"]
