"""Helpers independent of this project: checks, arrays, files, tables, statistics, random states, autograd, modes."""

from art_sensreg.utils.arrays import as_array, as_numbers
from art_sensreg.utils.autograd import check_differentiable, enable_grad, outside_inference_mode
from art_sensreg.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_seed,
    python_number,
    python_numbers,
    shown,
)
from art_sensreg.utils.warn import warn_caller

__all__ = [
    "as_array",
    "as_numbers",
    "check_choice",
    "check_count",
    "check_differentiable",
    "check_flag",
    "check_number",
    "check_seed",
    "enable_grad",
    "outside_inference_mode",
    "python_number",
    "python_numbers",
    "shown",
    "warn_caller",
]
