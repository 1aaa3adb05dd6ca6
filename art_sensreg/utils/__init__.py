"""What knows nothing of this project: checks of arguments, files, suggestions for misspelt names."""

from art_sensreg.utils.checks import check_choice, check_count, check_flag, check_number, check_seed, shown

__all__ = ["check_choice", "check_count", "check_flag", "check_number", "check_seed", "shown"]
