from art_sensreg.utils.tables import Table


def test_in_a_terminal_each_row_takes_one_line_without_control_characters():
    text = Table(["defence", "claim"], [["a\nb", "\x1b[2Jgone"]]).as_text()
    assert len(text.splitlines()) == 3
    assert "\x1b" not in text


def test_columns_of_words_are_aligned_to_the_left_and_numbers_to_the_right():
    table = Table(["a", "n", "words"], [["x", "1", "y"], ["long", "100", "z"]], words=["words"])
    assert table.as_text().splitlines()[2:] == ["x       1  y", "long  100  z"]
    assert table.as_markdown().splitlines()[1] == "| --- | ---: | --- |"


def test_no_cell_is_taken_for_markup_in_markdown():
    text = Table(["a"], [["x|y"], ["<script>"], ["[x](y)"]]).as_markdown()
    assert text.splitlines()[2:] == ["| x\\|y |", "| &lt;script&gt; |", "| [x]\\(y) |"]
