"""The request: what the command line and Python callers fill."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from art_sensreg.benchmark import SuiteRequest
from art_sensreg.benchmark.cli.suite_parser import make_parser, request_of


def test_without_arguments_the_command_line_asks_for_the_defaults():
    assert request_of(make_parser().parse_args([])) == SuiteRequest()


def test_every_argument_has_its_place():
    words = ["--defences", "none,sr", "--norm", "linf,l2", "--eps", "0.1,0.2;0.5", "--set", "sr.sigma=0.2", "--quiet"]
    words += ["--set", "sr.noise=sphere", "--out", "results/x", "--jobs", "2", "--audit", "--seeds", "3"]
    assert request_of(make_parser().parse_args(words)) == SuiteRequest(
        defences=("none", "sr"),
        norms=("linf", "l2"),
        eps=((0.1, 0.2), (0.5,)),
        options={"sr": {"sigma": 0.2, "noise": "sphere"}},
        verbose=False,
        out=Path("results/x"),
        jobs=2,
        audit=True,
        seeds=3,
    )


def test_a_request_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SuiteRequest().seeds = 2
