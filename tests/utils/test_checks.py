import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from art_sensreg.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_known,
    check_number,
    did_you_mean,
    number_of,
    optional_module,
    python_number,
    shown,
)


def fit(x, nb_epochs=10, *, batch_size=128, **kwargs):
    check_known("fit()", kwargs, fit)


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [("nb_epoch", " Did you mean `nb_epochs`?"), ("Batch-Size", " Did you mean `batch_size`?"), ("seed", "")],
)
def test_an_unknown_keyword_gets_the_names_of_the_signature_and_the_nearest_one(keyword, hint):
    with pytest.raises(TypeError) as caught:
        fit([], **{keyword: 3})
    expected = "expected x, nb_epochs, batch_size."
    assert str(caught.value) == f"fit() got an unknown keyword argument `{keyword}`=3; {expected}{hint}"


def test_known_keywords_pass():
    fit([], nb_epochs=3, batch_size=5)
    check_known("set_params()", {}, ("eps",), ValueError)


def test_names_without_a_signature_and_another_error():
    with pytest.raises(ValueError, match=r"set_params\(\) got .* `epss`=1; expected eps, norm\. Did you mean `eps`\?$"):
        check_known("set_params()", {"epss": 1}, ("eps", "norm"), ValueError)


def test_the_nearest_names_are_found_whatever_the_case_and_the_hyphens():
    assert did_you_mean("ART_mardy", ["none", "art-madry"]) == ". Did you mean 'art-madry'?"
    assert did_you_mean("ab", ["abc", "abd"]).count(" or ") == 1
    assert did_you_mean(None, []) == "."


@pytest.mark.parametrize("value", ["gausian", 3, None, ["gaussian"]])
def test_a_choice_is_one_of_the_list(value):
    check_choice("noise", "gaussian", ("gaussian", "uniform"))
    with pytest.raises(ValueError, match=r"^`noise` is .*; expected one of gaussian, uniform."):
        check_choice("noise", value, ("gaussian", "uniform"))


@pytest.mark.parametrize("value", [1, np.int64(1), np.float32(1), torch.tensor(1.0), Fraction(1)])
def test_numbers_of_any_library_are_numbers(value):
    check_number("eps", value, minimum=0.0)
    assert number_of(value) == 1.0
    assert type(python_number(value)) in (int, float)


@pytest.mark.parametrize("value", [True, "1", None, 1j, np.ones(1), torch.ones(1), np.bool_(True)])
def test_what_only_converts_to_a_number_is_none(value):
    with pytest.raises(TypeError, match=r"^`eps` is .*; expected a finite number of at least 0."):
        check_number("eps", value, minimum=0.0)
    with pytest.raises(TypeError, match=r"^`steps` is .*; expected a whole number of at least 1."):
        check_count("steps", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 10**400])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"^`eps` is "):
        check_number("eps", value, minimum=0.0)


def test_counts_fit_into_what_arrays_count_with():
    check_count("steps", 2**63 - 1)
    for value in (0, 2**63):
        with pytest.raises(ValueError, match=r"^`steps` is "):
            check_count("steps", value)


def test_a_flag_is_true_or_false_and_nothing_else():
    check_flag("clip", False)
    for value in (0, "no", np.True_):
        with pytest.raises(TypeError, match="expected True or False"):
            check_flag("clip", value)


def test_values_are_shown_short_and_on_one_line():
    text = shown(["long\nline" * 100] * 50)
    assert len(text) <= 200
    assert "\n" not in text


def test_a_missing_package_is_named_with_what_installs_it():
    assert optional_module("math") is math
    with pytest.raises(ImportError, match=r"^no_such_package is missing: pip install no_such_package$"):
        optional_module("no_such_package.part")
    with pytest.raises(ImportError, match=r"^no_such_package is missing: pip install 'art_sensreg\[bench\]'$"):
        optional_module("no_such_package", "'art_sensreg[bench]'")
