"""Figures of matplotlib as part of a page: SVG whose text stays text and whose colours are those of the style sheet."""

from __future__ import annotations

import html
import io
import re
from typing import Any

# Colours of the figures, and the variables of the style sheet that take their place.
INK, GREY, GRID, PAPER = "#0000e0", "#0000e1", "#0000e2", "#0000e3"
SERIES = tuple(f"#0000f{number}" for number in range(8))
_VARIABLES = {INK: "ink", GREY: "grey", GRID: "grid", PAPER: "paper"} | {
    colour: f"s{number}" for number, colour in enumerate(SERIES)
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
}
_SUPERFLUOUS = re.compile(r"(<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->)\s*", re.DOTALL)
# Before the name of what the reader's pointer shows.
TIP = "tip:"


def settings(size: float) -> dict[str, Any]:
    """The settings of matplotlib for a figure with letters of a size."""
    small = dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), size * 0.9)
    return {**_SETTINGS, **small, "font.size": size, "axes.labelsize": size}


def inline_svg(figure: Any, label: str, prefix: str) -> str:
    """
    A figure as an SVG element.

    :param figure: A figure of matplotlib, made with :func:`settings`. Artists whose gid begins with :data:`TIP` show
        the rest of it under the pointer.
    :param label: What it shows, for those who do not see it.
    :param prefix: Begins the names inside, which must differ from those of other figures of the page.
    :return: The element.
    """
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = _SUPERFLUOUS.sub("", text)
    text = re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"#0000[ef][0-9a-f]", lambda match: f"var(--{_VARIABLES[match.group()]})", text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = f'<svg {box.group()} role="img" aria-label="{html.escape(label)}" stroke-linejoin="round">'
    return re.sub(r"<svg[^>]*>", lambda match: head, text, count=1)
