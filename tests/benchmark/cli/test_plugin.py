"""A file of a user's own is run before the names that it registers are parsed."""

from __future__ import annotations

import json

import pytest

from art_sensreg.auditing import CHECKS
from art_sensreg.benchmark.cli import audit, suite

CHECK = '''
from art_sensreg.auditing import Finding, register_check

@register_check(source="own", meaning="There are images.")
def no_images(context):
    """Number of images."""
    return Finding(float(context.inputs.n), 0.0)
'''


@pytest.fixture
def plugin(tmp_path):
    yield tmp_path / "plugin.py"
    CHECKS.pop("no_images", None)


def test_a_check_of_a_plugin_can_be_asked_for(plugin, tmp_path):
    plugin.write_text(CHECK)
    words = ["--defence", "none", "--model", "mlp", "--train-size", "100", "--epochs", "1", "--points", "20", "--quiet"]
    assert audit.main([*words, "--plugin", str(plugin), "--checks", "no_images", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["verdict"] == "do not trust: no_images"
    assert report["checks"][0]["value"] == 20


@pytest.mark.parametrize("program", [audit, suite])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from art_sensreg.benchmark.defences import *\nregister(DEFENCES['sr'])", "`name` is 'sr', which is taken"),
    ],
)
def test_a_plugin_that_cannot_be_run_is_one_line(plugin, capsys, program, text, words):
    if text is not None:
        plugin.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        program.main(["--plugin", str(plugin), "--list"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1
