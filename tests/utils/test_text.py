import pytest

from art_sensreg.utils.text import error_text, escape_csv, escape_markdown, fenced, one_line


class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no")


def test_text_becomes_one_line_without_control_characters():
    assert one_line("two\nlines, \x1b[31mred") == "two lines, [31mred"
    assert one_line(Broken()) == "(Broken)"
    assert error_text(KeyError("a")) == "KeyError: 'a'"


def test_no_markup_begins_in_markdown():
    assert escape_markdown("a|b <script> [x](y) `z`") == r"a\|b &lt;script&gt; [x]\(y) \`z\`"


def test_nothing_ends_a_block_of_code():
    assert fenced("make bench") == "```\nmake bench\n```"
    assert fenced("echo '```'").splitlines()[0] == "````"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@sum", " =1"])
def test_no_cell_is_a_formula(cell):
    assert escape_csv(cell).startswith("'")


def test_ordinary_cells_are_unchanged():
    assert (escape_csv("a\nb"), escape_csv(-0.5)) == ("a b", -0.5)
