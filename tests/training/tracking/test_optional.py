"""A missing package is named with the command that installs it."""

import math

import pytest

from art_sensreg.training.tracking.optional import optional_module


def test_a_module_that_is_there():
    assert optional_module("math") is math


def test_a_package_that_is_missing():
    with pytest.raises(ImportError, match="no_such_package is missing: pip install no_such_package"):
        optional_module("no_such_package.part")
