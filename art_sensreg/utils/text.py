"""Text of strangers (names, reasons, error messages) where it could be taken for markup, formulas or new lines."""

from __future__ import annotations

import html
from typing import Any


def one_line(text: Any) -> str:
    r"""
    Text on one line, without control characters, which a terminal would obey.

    :param text: Anything; of an object whose `str` fails, its class.
    :return: The line.

    Example:
    >>> from art_sensreg.utils.text import one_line
    >>> one_line("two\nlines, \x1b[31mred")
    'two lines, [31mred'
    """
    try:
        words = str(text)
    except Exception:  # noqa: BLE001 - an exception of a stranger may be broken itself
        words = f"({type(text).__name__})"
    return "".join(sign for sign in " ".join(words.split()) if sign.isprintable())


def describe(error: BaseException) -> str:
    """
    An exception as one line: its class and its message.

    :param error: The exception.
    :return: The line.

    Example:
    >>> from art_sensreg.utils.text import describe
    >>> describe(KeyError("a"))
    "KeyError: 'a'"
    """
    return f"{type(error).__name__}: {one_line(error)}"


def escape_markdown(text: Any) -> str:
    r"""
    Text for a page in Markdown: on one line, no cell of a table ends in it, no tag, link, picture or code begins.

    :param text: Anything.
    :return: The text.

    Example:
    >>> from art_sensreg.utils.text import escape_markdown
    >>> escape_markdown("a|b <script> [x](y)")
    'a\\|b &lt;script&gt; [x]\\(y)'
    """
    line = html.escape(one_line(text), quote=False)
    for sign, escaped in (("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\("), ("][", "]\\["), ("]:", "]\\:")):
        line = line.replace(sign, escaped)
    return line


def fenced(text: str) -> str:
    r"""
    A command as a block of code in Markdown, which nothing in it ends.

    :param text: The command.
    :return: The block.

    Example:
    >>> from art_sensreg.utils.text import fenced
    >>> fenced("make bench")
    '```\nmake bench\n```'
    """
    line, fence = one_line(text), "```"
    while fence in line:
        fence += "`"
    return f"{fence}\n{line}\n{fence}"


def escape_csv(value: Any) -> Any:
    """
    A cell of a CSV file that no spreadsheet takes for a formula.

    :param value: A cell; what is no text stays.
    :return: The cell, on one line; text that would be a formula begins with an apostrophe.

    Example:
    >>> from art_sensreg.utils.text import escape_csv
    >>> escape_csv("=1+1"), escape_csv(-0.5)
    ("'=1+1", -0.5)
    """
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line
