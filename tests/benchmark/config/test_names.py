"""Names of defences and attacks become parts of files' names and of lists on the command line."""

import pytest

from art_sensreg.benchmark.config.names import check_new_name


@pytest.mark.parametrize(
    "name",
    ["", "..", "../evil", "/tmp/evil", "a/b", "a\\b", "a.b", "a,b", "a=b", "a b", "a\nb", "a\x00b", "all", "trainers",
     "-x", "x" * 65, "ä", "a|b", "<b>", None, 3],
)  # fmt: skip
def test_names_that_cannot_be_part_of_a_file_are_refused(name):
    with pytest.raises(ValueError, match="`name` is"):
        check_new_name(name, {})


def test_a_name_is_taken_once():
    check_new_name("sr+jr_2", {"sr": None})
    with pytest.raises(ValueError, match="is taken"):
        check_new_name("sr", {"sr": None})
