"""Objects of a user's own files and modules, and one line for what is wrong with them."""

from __future__ import annotations

import pickle
import sys

import pytest

from art_sensreg.benchmark.config.references import load_object, source_of


def test_a_file_is_run_once_for_each_content_and_may_import_its_neighbours(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    file = tmp_path / "mine.py"
    file.write_text("from beside import WIDTH\nclass Net:\n    width = WIDTH\n")
    first = load_object("--model", f"{file}:Net")
    assert first.width == 3
    assert load_object("--model", f"{file}:Net") is first
    assert type(pickle.loads(pickle.dumps(first()))) is first
    file.write_text("class Net:\n    width = 4\n")
    assert load_object("--model", f"{file}:Net").width == 4
    assert str(tmp_path) not in sys.path


def test_a_module_that_can_be_imported_from_here(tmp_path, monkeypatch):
    (tmp_path / "a_module_of_mine.py").write_text("def build():\n    return 7\n")
    monkeypatch.chdir(tmp_path)
    assert load_object("--model", "a_module_of_mine:build")() == 7
    monkeypatch.delitem(sys.modules, "a_module_of_mine")


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("", "nowhere.py:build", "`--model`: there is no file .*nowhere.py; expected FILE.py:NAME"),
        ("def build(): pass", "mine.py:biuld", "`--model`: .*mine.py has no 'biuld'. Did you mean 'build'?"),
        ("1 / 0", "mine.py:build", "`--model`: .*mine.py cannot be imported: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "mine.py:build", "cannot be imported: SystemExit: 3"),
        ("def (", "mine.py:build", "cannot be imported: SyntaxError"),
        ("", "mine.py:", "mine.py has no ''"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, reference, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        load_object("--model", f"{tmp_path}/{reference}")
    assert "\n" not in str(raised.value)


def test_an_unknown_module_is_one_line():
    with pytest.raises(ValueError, match="`dataset`: no_such_module cannot be imported: ModuleNotFoundError"):
        load_object("dataset", "no_such_module:load")


def test_only_a_file_has_a_source():
    assert source_of("folder/net.py:build").name == "net.py"
    assert source_of("package.module:build") is None
