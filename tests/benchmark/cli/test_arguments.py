"""What all command lines share: how names and sizes are read, and how errors are worded."""

import argparse

import pytest

from art_sensreg.benchmark.cli.arguments import OneLineParser, known_names, positive_number, size_groups, whole_number


def test_names_and_groups_of_names():
    parse = known_names({"a": 1, "b": 2, "c": 3}, {"both": ["a", "b"]})
    assert parse("c,both,a") == ("c", "a", "b")
    assert parse("all") == ("a", "b", "c")
    with pytest.raises(argparse.ArgumentTypeError, match=r"bth is unknown; expected all, both, a, b, c\. Did"):
        parse("bth")


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.5", 0.5), ("1e-3", 1e-3)])
def test_a_number_or_a_fraction(text, value):
    assert positive_number(text) == value
    assert size_groups(text, 1) == [(value,)]


@pytest.mark.parametrize(("parse", "text"), [(whole_number, "0"), (positive_number, "1/0"), (positive_number, "inf")])
def test_what_is_no_number_is_quoted(parse, text):
    with pytest.raises(argparse.ArgumentTypeError, match=repr(text)):
        parse(text)


def test_an_error_is_one_line_with_the_nearest_option(capsys):
    parser = OneLineParser(prog="program")
    parser.add_argument("--budget")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--budgt", "smoke\nquick"])
    shown = capsys.readouterr().err
    assert shown.startswith("program: error: unrecognized arguments: --budgt")
    assert "Did you mean '--budget'?" in shown
    assert shown.count("\n") == 1
