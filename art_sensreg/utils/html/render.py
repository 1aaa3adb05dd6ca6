"""Pages and fragments from Jinja templates: the shared ones, and those of a package."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from art_sensreg.utils.text import one_line

_CODE = re.compile(r"`([^`]+)`")


def render(name: str, **content: Any) -> str:
    """
    Fill in a template; text of strangers is escaped.

    :param name: Package and file, as `art_sensreg.auditing/audit.html` (in the package's folder `templates`). Templates
        include others by such names.
    :param content: What the template names.
    :return: HTML.
    :raises jinja2.TemplateError: If there is no such template, or it names what was not given.
    """
    return str(_environment().get_template(name).render(content))


def prose(text: Any) -> Markup:
    """
    Text on one line as HTML, of which words between backticks are code.

    Example:
    >>> from art_sensreg.utils.html.render import prose
    >>> print(prose("raise `max_iter` <b>"))
    raise <code>max_iter</code> &lt;b&gt;
    """
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(one_line(text)))))


def _load(name: str) -> str | None:
    package, _, file = name.partition("/")
    source = files(package).joinpath("templates", file)
    return source.read_text(encoding="utf-8") if source.is_file() else None


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, loader=FunctionLoader(_load), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(line=one_line, prose=prose)
    return environment
