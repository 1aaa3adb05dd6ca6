"""The page: its parts in their order, one file, small enough to be mailed."""

import re

import pytest


@pytest.fixture(scope="module")
def page(full_page):
    return full_page.read_text()


def test_the_parts_stand_in_their_order(page):
    parts = ["Best worst case at linf 0.2", ">Every defence<", "against the cost of training", "against eps, linf",
             "before and after an attack", "can the attacks be believed?", ">More<", "How this was made"]  # fmt: skip
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_the_page_needs_nothing_else_and_can_be_mailed(page):
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\((?!#)|@import""", page)
    assert len(page.encode()) < 3 * 2**20
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_failed_checks_are_open_and_passed_ones_are_folded(page):
    audits = page[page.index("can the attacks be believed?") : page.index(">More<")]
    assert audits.count("<details open>") == 1
    assert audits.count('<div class="failed">') == 3
    assert len(re.findall(r"<details><summary>\d+ passed", audits)) == 4
    assert audits.count("slack for the sampling error <b>0.0123</b>") == 4


def test_the_rest_is_folded(page):
    more = page[page.index(">More<") : page.index("How this was made")]
    headings = re.findall(r"<details><summary>([^<]*)", more)
    attacks = "Each attack at linf 0.1: robust accuracy in %, after this attack and those to its left"
    assert {"Training loss", "Training accuracy, %", "Claims", attacks} <= set(headings)
    assert "<details open" not in more


def test_how_it_was_made(page):
    end = page[page.index("How this was made") :]
    for part in ("<pre>python benchmarks/run_art_suite.py", "Seeds 0;", "caca2431", "torch 2."):
        assert part in end
