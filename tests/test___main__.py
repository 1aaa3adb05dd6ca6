"""`python -m art_sensreg` and the console script run the same function."""

from __future__ import annotations

import configparser

from art_sensreg import __main__
from tests.paths import ROOT


def test_the_exit_code_and_one_line_for_what_is_raised(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "main", lambda: 1)
    assert __main__.run() == 1
    monkeypatch.setattr(__main__, "main", lambda: 1 / 0)
    assert __main__.run() == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero\n"


def test_the_installed_command_is_that_function():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"]
    assert scripts.split("=")[1].strip() == "art_sensreg.__main__:run"
