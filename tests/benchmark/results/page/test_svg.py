"""Figures inside a page: their text stays text, their names are their own, their colours those of the page."""

import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from art_sensreg.benchmark.results.page.svg import SERIES, TIP, inline_svg, settings


def drawn(prefix="one"):
    with rc_context(settings(9)):
        figure = Figure(figsize=(3, 2))
        (line,) = figure.add_subplot(xlabel="eps <&>").plot([0, 1], [0, 1], "o-", color=SERIES[3])
        line.set_gid(f"{TIP}sr & jr")
        return inline_svg(figure, 'a "label"', prefix)


def test_text_colours_and_names():
    text = drawn()
    assert text.startswith("<svg viewBox=")
    assert 'role="img" aria-label="a &quot;label&quot;"' in text
    assert "eps &lt;&amp;&gt;</text>" in text
    assert "var(--s3)" in text
    assert "var(--ink)" in text
    assert "<title>sr &amp; jr</title>" in text
    assert not re.search(r"#0000[ef]\w|<style|<metadata|<!--|https?://(?!www.w3.org)", text)


def test_names_of_two_figures_differ():
    ids = [set(re.findall(r'\bid="([^"]*)"', drawn(prefix))) for prefix in ("one", "two")]
    assert ids[0].isdisjoint(ids[1])
    used = re.findall(r'(?:url\(#|href="#)([^")]*)', drawn())
    assert used
    assert set(used) <= ids[0]


def test_the_same_figure_is_the_same_text():
    assert drawn() == drawn()
