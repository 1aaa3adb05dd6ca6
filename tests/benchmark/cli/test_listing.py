"""What `--list` prints."""

import re

import pytest

from art_sensreg.auditing import CHECKS
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.cli import suite
from art_sensreg.benchmark.cli.listing import list_names, list_some
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.defences.from_art import LEFT_OUT


def test_everything_is_listed_in_lines_of_at_most_100_columns():
    lines = list_names().splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for entry in (*DEFENCES.values(), *ATTACKS.values()):
        assert any(re.match(rf"  {re.escape(entry.name)}( |$)", line) for line in lines), entry.name
        assert f"{entry.name} {entry.summary} ({entry.paper})." in text
    for defence in DEFENCES.values():
        assert defence.repaired in text
        assert defence.claim.threat in text
        assert ", ".join(defence.options) in text
    assert "Every defence that trains a model: options learning_rate, optimizer, momentum" in text
    assert all(f"{names}: {reason}" in text for names, reason in LEFT_OUT.items())
    order = [text.index(f" {name} {attack.summary}") for name, attack in ATTACKS.items()]
    assert order == sorted(order)


def test_each_name_alone_has_its_paper_and_its_options():
    for name, defence in DEFENCES.items():
        text = list_some([name])
        assert max(map(len, text.splitlines())) <= 100
        flat = " ".join(text.split())
        assert defence.paper in flat
        for option, default in defence.options.items():
            line = next(line for line in text.splitlines() if line.startswith(f"    {option} "))
            assert default is None or str(default) in " ".join(text[text.index(line) :].split())
    for name, attack in ATTACKS.items():
        flat = " ".join(list_some([name]).split())
        assert attack.paper in flat
        assert all(option in flat for settings in attack.settings.values() for option in settings)
    for name, check in CHECKS.items():
        text = list_some([name])
        assert max(map(len, text.splitlines())) <= 100
        assert check.source in " ".join(text.split())


def test_options_by_data_set_are_those_of_the_recipes():
    text = " ".join(list_some(["sr+jr"]).split())
    values = [RECIPES[name].penalties["sr+jr"]["sigma"] for name in ("digits", "mnist", "cifar10")]
    assert "sigma {} on digits, {} on mnist, {} on cifar10".format(*values) in text
    assert "eps the largest --eps of the first norm" in " ".join(list_some(["at+sr+jr"]).split())
    assert "trained on mnist" not in text
    chosen = ", ".join(f"{name} {value}" for name, value in RECIPES["mnist"].optimization["carried"].items())
    assert f"trained on mnist with {chosen}" in " ".join(list_some(["carried"]).split())


def test_the_checks_are_listed_in_100_columns():
    lines = list_some(["checks"]).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"  {name}") for line in lines) for name in CHECKS)


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"'sr_jr' is no defence, attack or check\. Did you mean 'sr\+jr'"):
        list_some(["sr_jr"])


def test_the_list_of_the_suite_takes_a_name(capsys):
    assert suite.main(["--list", "pgd"]) == 0
    assert capsys.readouterr().out.startswith("pgd (attack)")
    with pytest.raises(SystemExit, match="2"):
        suite.main(["--list", "pdg"])
    assert "argument --list: 'pdg' is no defence" in capsys.readouterr().err
