"""The history of a run as a table of pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from art_sensreg.utils import shown
from art_sensreg.utils.checks import optional_module

if TYPE_CHECKING:
    import pandas


def history_frame(history: Sequence[Mapping[str, float]]) -> pandas.DataFrame:
    """
    The history of a run as a table: a row for each epoch, a column for each entry.

    :param history: `trainer.history` or `classifier.history`.
    :return: A `pandas.DataFrame` whose index is the number of the epoch, from 1; an entry that an epoch lacks is NaN.
    :raises TypeError: If the history is not a list of dicts.
    :raises ImportError: If pandas is missing.

    Example:
    >>> from art_sensreg.training import history_frame
    >>> frame = history_frame([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_accuracy": 0.9}])
    >>> frame["loss"].min(), list(frame.index)
    (np.float64(0.25), [1, 2])
    """
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Sequence):
        raise TypeError(f"`history` is {shown(history)}; expected a list of dicts, such as `trainer.history`.")
    for number, record in enumerate(history):
        if not isinstance(record, Mapping) or "epoch" not in record:
            raise TypeError(f"`history[{number}]` is {shown(record)}; expected a dict with an entry `epoch`.")
    frame: pandas.DataFrame = (
        optional_module("pandas").DataFrame([dict(record) for record in history] or {"epoch": []}).set_index("epoch")
    )
    return frame
