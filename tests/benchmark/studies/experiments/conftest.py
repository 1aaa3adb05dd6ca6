"""Variants that an experiment registers are forgotten after each test."""

import pytest

from art_sensreg.benchmark.defences import DEFENCES


@pytest.fixture(autouse=True)
def _registered():
    before = set(DEFENCES)
    yield
    for name in set(DEFENCES) - before:
        del DEFENCES[name]
