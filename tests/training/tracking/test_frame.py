"""The history as a table."""

import numpy as np
import pytest

from art_sensreg.training import history_frame
from tests.training.helpers import fit_armed, small_model

pandas = pytest.importorskip("pandas")


def test_the_table_holds_the_history():
    trainer = fit_armed(small_model())
    frame = history_frame(trainer.history)
    assert list(frame.index) == [1, 2]
    assert frame.index.name == "epoch"
    assert frame.reset_index().to_dict("records") == trainer.history


def test_an_entry_that_an_epoch_lacks_is_nan():
    frame = history_frame([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5, "pgd_accuracy": 0.1}])
    assert np.isnan(frame.loc[1, "pgd_accuracy"])
    assert frame.loc[2, "pgd_accuracy"] == 0.1


def test_no_epoch_is_an_empty_table():
    assert history_frame([]).empty


@pytest.mark.parametrize("history", [None, {"epoch": 1}, "history", [1.0], [{"loss": 1.0}]])
def test_anything_else_is_refused(history):
    with pytest.raises(TypeError, match="expected a"):
        history_frame(history)
