"""Pages from templates: nothing of strangers becomes markup, and the colours can be read."""

import re

import pytest
from jinja2 import TemplateError

from art_sensreg.utils.html import render


def test_text_of_strangers_is_escaped():
    page = render("art_sensreg.auditing/page.html", title="<i>", view=View(), number=str)
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert "&lt;script&gt; x" in page


class View:
    verdict, scope, trusted, failed, passed, others = "<script>\nx", (), True, (), (), ()


def test_a_page_makes_no_request():
    page = render("art_sensreg.auditing/page.html", title="t", view=View(), number=str)
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", page)


@pytest.mark.parametrize("name", ["art_sensreg.auditing/nothing.html", "art_sensreg.utils.html/base.html"])
def test_what_is_missing_is_an_error(name):
    with pytest.raises(TemplateError):
        render(name)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_colour_of_text_can_be_read_in_both_schemes(scheme):
    """A contrast of 4.5 at least (WCAG 2.2, 1.4.3), also of what charts are written in, which axe does not look at."""
    style = render("art_sensreg.utils.html/style.css")
    found = [
        {name: value if len(value) == 7 else "#" + "".join(2 * sign for sign in value[1:]) for name, value in pairs}
        for pairs in (re.findall(r"--(\w+): (#\w+)", block) for block in re.findall(r"--ink[^}]*", style))
    ]
    colours = found[scheme]
    for name in ("ink", "soft", "link", "good", "bad", "grey", *(f"s{number}" for number in range(8))):
        for ground in ("paper", "card") if name in ("ink", "soft", "link", "good", "bad") else ("paper",):
            one, other = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (name, ground)
