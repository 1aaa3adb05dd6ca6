"""Untrusted text (names, reasons, error messages) where it could be taken for markup, formulas or new lines."""

from __future__ import annotations

import html
from typing import Any


def one_line(text: Any) -> str:
    """Text on one line, without control characters, which a terminal would interpret."""
    try:
        words = str(text)
    except Exception:  # noqa: BLE001 - the exception of a foreign object may be broken itself
        words = f"({type(text).__name__})"
    return "".join(sign for sign in " ".join(words.split()) if sign.isprintable())


def error_text(error: BaseException) -> str:
    """An exception as one line: its class and its message."""
    return f"{type(error).__name__}: {one_line(error)}"


def escape_markdown(text: Any) -> str:
    """Text on one line that ends no cell of a table in Markdown, and begins no tag, link, picture or code."""
    line = html.escape(one_line(text), quote=False)
    for sign, escaped in (("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\("), ("][", "]\\["), ("]:", "]\\:")):
        line = line.replace(sign, escaped)
    return line


def fenced(text: str) -> str:
    """A command as a block of code in Markdown, which nothing in it ends."""
    line, fence = one_line(text), "```"
    while fence in line:
        fence += "`"
    return f"{fence}\n{line}\n{fence}"


def escape_csv(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula: such text gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line
