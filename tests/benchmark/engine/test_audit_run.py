"""An audit that is asked for by itself, in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from art_sensreg.benchmark.config.audit_request import AuditRequest
from art_sensreg.benchmark.engine.audit_run import load_target, run_audit, settings_of_run

CHECKS = ("eval_mode", "clean_accuracy", "transfer_from_twin", "transfer_from_surrogates")
SMALL = {"model": "mlp", "train_size": 300, "epochs": 2, "points": 40, "quick": True, "verbose": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder in which `sr`, its twin and a surrogate were trained to be audited."""
    out = tmp_path_factory.mktemp("audit") / "sr"
    result = run_audit(AuditRequest(defence="sr", out=out, checks=CHECKS, **SMALL))
    assert (result.title, result.out) == ("sr on digits, mlp", out)
    assert {check.name for check in result.report.checks} == set(CHECKS)
    assert "SKIP" not in {check.status for check in result.report.checks}
    return out


def test_a_file_of_weights_alone_has_no_companions(trained, tmp_path):
    bare = tmp_path / "mine.safetensors"
    bare.write_bytes((trained / "checkpoints" / "sr-seed0.safetensors").read_bytes())
    given = AuditRequest(checkpoint=bare, out=tmp_path / "out", checks=CHECKS, **{**SMALL, "epochs": None})
    report = run_audit(given).report
    assert report["transfer_from_twin"].status == "SKIP"
    assert report.settings["points"] == 40


def test_a_file_of_a_run_has_those_of_the_run(trained, tmp_path):
    file = trained / "checkpoints" / "sr-seed0.safetensors"
    result = run_audit(AuditRequest(checkpoint=file, out=tmp_path, checks=CHECKS, points=40, quick=True, verbose=False))
    assert result.title == "sr-seed0.safetensors on digits, mlp"
    assert "SKIP" not in {check.status for check in result.report.checks}


def test_settings_and_weights_of_a_run_are_read_back(trained, tmp_path):
    settings, dataset = settings_of_run(trained, "sr")
    assert (settings.model, settings.epochs, len(dataset.x_train)) == ("mlp", 2, 300)
    file = trained / "checkpoints" / "none-seed0.safetensors"
    states = [load_target(settings, dataset, 0, file, name).model.model.state_dict() for name in ("none", "sr")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    with pytest.raises(ValueError, match=r"holds no `results\.json` of a run"):
        settings_of_run(tmp_path, "sr")


def test_a_folder_with_models_of_other_settings_is_refused(trained):
    with pytest.raises(ValueError, match=r"`--out` .* holds models of other settings \(`epochs` was 2 and is now 3\)"):
        run_audit(AuditRequest(defence="sr", out=trained, **{**SMALL, "epochs": 3}))
