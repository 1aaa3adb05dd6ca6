"""One model under many attacks: what is stored, what is run again, and the unions."""

import numpy as np
import pytest

from art_sensreg.benchmark.studies.adaptive import SINK, STANDARD, Outcome, adaptive_table, read_outcomes, run_attacks


class Shift:
    """Adds a number to every pixel."""

    eps = 0.1

    def __init__(self, by):
        self.by, self.seen, self.attacked, self.seconds = by, 0, np.zeros(0), {}

    def generate(self, x, y):
        self.seen, self.attacked = len(x), np.ones(len(x))
        return np.clip(x + self.by, 0, 1)


def test_what_is_stored_is_not_run_again(tmp_path, make_classifier, digits):
    classifier, path, said = make_classifier(), tmp_path / "outcomes.json", []
    small = digits.limited(test_size=20)
    attacks = {STANDARD: Shift(0.1), "other": Shift(-0.1), SINK: Shift(0.05)}
    found = run_attacks(classifier, attacks, small, path, said.append)
    assert list(found) == list(attacks)
    correct = (classifier.predict(small.x_test).argmax(axis=1) == small.y_test).sum()
    assert attacks[STANDARD].seen == attacks["other"].seen == correct
    left = np.all([found[name].mask for name in (STANDARD, "other")], axis=0).sum()
    assert attacks[SINK].seen == found[SINK].attacked == left
    again = {name: Shift(0.0) for name in attacks}
    assert run_attacks(classifier, again, small, path, said.append) == found
    assert [attack.seen for attack in again.values()] == [0, 0, 0]
    assert len(said) == 3


def test_outcomes_of_other_images_are_refused(tmp_path):
    path = tmp_path / "outcomes.json"
    assert read_outcomes(path, 2) == {}
    path.write_text('{"pgd": {"robust": [1, 0, 1], "seconds": 1.0}}')
    assert read_outcomes(path, 3)["pgd"].seconds == 1.0
    for n, text in ((2, path.read_text()), (1, "[]"), (1, '{"pgd": {"robust": [2], "seconds": 1.0}}')):
        path.write_text(text)
        with pytest.raises(ValueError, match="holds no outcomes of this run"):
            read_outcomes(path, n)


def test_the_unions_and_the_gain():
    found = {
        STANDARD: Outcome(robust=(1, 1, 0, 1), seconds=1.0),
        "one": Outcome(robust=(1, 0, 1, 1), seconds=1.0),
        SINK: Outcome(robust=(0, 0, 0, 1), seconds=1.0, attacked=2),
    }
    cells = {row[0].strip("*"): row[1] for row in adaptive_table({"0.1": found}).rows}
    assert cells[STANDARD].startswith("75.0 [")
    assert cells[f"{SINK}: images broken"] == "1 of 2"
    assert cells["union of the adaptive attacks"].startswith("50.0 [")
    assert cells["union of all"].startswith("25.0 [")
    assert cells["what the adaptive attacks gain over standard, points"] == "50.0"
