"""Tables of text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from art_sensreg.utils.text import escape_markdown, one_line


@dataclass(frozen=True)
class Table:
    """
    A header and rows of text.

    The columns named in `words` are aligned to the left, as the first is; all others hold numbers.
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
