"""Tables of text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from art_sensreg.utils.text import escape_markdown, one_line


@dataclass(frozen=True)
class Table:
    """
    A header and rows of text.

    :param header: Names of the columns.
    :param rows: Cells, as many in each row as there are columns.
    :param words: Names of the columns that are aligned to the left, beside the first; all others hold numbers.

    Example:
    >>> from art_sensreg.utils.tables import Table
    >>> rows = [["none", "98.1", "-"], ["sr", "97.5", "met"]]
    >>> print(Table(["defence", "clean %", "claim"], rows, words=["claim"]).as_text())
    defence  clean %  claim
    -------  -------  -----
    none        98.1  -
    sr          97.5  met
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()

    def as_text(self) -> str:
        """The table in aligned columns."""
        header, *rows = [[one_line(cell) for cell in line] for line in [self.header, *self.rows]]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        align = [str.ljust if left else str.rjust for left in self._left()]
        lines = [header, ["-" * width for width in widths], *rows]
        return "\n".join(
            "  ".join(pad(cell, width) for pad, cell, width in zip(align, line, widths, strict=True)).rstrip()
            for line in lines
        )

    def as_markdown(self) -> str:
        """The table in Markdown, in which no cell can be taken for markup."""
        header, *rows = [[escape_markdown(cell) for cell in line] for line in [self.header, *self.rows]]
        lines = [header, ["---" if left else "---:" for left in self._left()], *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _left(self) -> list[bool]:
        return [number == 0 or name in self.words for number, name in enumerate(self.header)]
