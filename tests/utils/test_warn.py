import pytest

from art_sensreg.utils.warn import warn_caller


def test_the_line_of_the_users_program_is_named():
    package = {"__name__": "art_sensreg.somewhere", "warn_caller": warn_caller}
    source = "def deep():\n    warn_caller('mind the gap')\ndef shallow():\n    deep()"
    exec(compile(source, "inside.py", "exec"), package)
    with pytest.warns(UserWarning, match="mind the gap") as caught:
        package["shallow"]()
    assert [warning.filename for warning in caught] == [__file__]
