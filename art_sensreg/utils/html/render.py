"""Pages and fragments from Jinja templates: the shared ones, and those of a package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from art_sensreg.utils.text import one_line


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


def _load(name: str) -> str | None:
    package, _, file = name.partition("/")
    source = files(package).joinpath("templates", file)
    return source.read_text(encoding="utf-8") if source.is_file() else None


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, loader=FunctionLoader(_load), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["line"] = one_line
    return environment
