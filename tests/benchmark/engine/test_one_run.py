"""Two runs of the suite with one `--out`: the second is refused in one line, and overwrites nothing."""

import json

import pytest

from art_sensreg.benchmark.cli import suite as cli
from art_sensreg.benchmark.engine import suite
from art_sensreg.training.checkpoint.lock import FolderLock

ARGUMENTS = [
    "--defences",
    "none",
    "--attacks",
    "fgm",
    "--budget",
    "smoke",
    "--epochs",
    "1",
    "--model",
    "mlp",
    "--quiet",
]


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    with pytest.raises(SystemExit) as stopped:
        cli.main([*ARGUMENTS, "--out", str(tmp_path)])
    lock.release()
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"`--out` {tmp_path} is in use by another run (process " in last
    assert not (tmp_path / "results.json").exists()


def test_results_written_in_the_meantime_are_not_overwritten(tmp_path, capsys, monkeypatch):
    """Another run ended between the first look at the folder and the lock."""
    plan = suite.plan_suite

    def late(request):
        found = plan(request)
        seen = iter([None, "results of another run"])
        monkeypatch.setattr(suite, "stored_results", lambda out: next(seen))
        return found

    monkeypatch.setattr(suite, "plan_suite", late)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*ARGUMENTS, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "was written to by another run just now; start again" in capsys.readouterr().err
    assert FolderLock(tmp_path).acquire()


def test_the_folder_is_free_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "train_run", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cli.main([*ARGUMENTS, "--out", str(tmp_path)])
    monkeypatch.undo()
    assert cli.main([*ARGUMENTS, "--out", str(tmp_path), "--resume"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["status"] == "ok"
    assert not (tmp_path / ".lock").exists()
