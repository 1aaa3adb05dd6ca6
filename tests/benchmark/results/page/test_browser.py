"""The page in headless Chromium: it sorts, folds and fits, makes no request, and passes axe-core's checks."""

import os
import shutil
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.support.pages import audit_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: art_sensreg[browser]")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
AXE = Path(os.environ.get("ART_SENSREG_AXE", ROOT / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"))
COMBINATIONS = [(width, scheme) for width in (375, 1280) for scheme in ("light", "dark")]
# What reaches beyond the window, unless it can be scrolled there.
OVERFLOW = """() => [...document.querySelectorAll('body *')].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 1 && !(one.closest('.scroll') && innerWidth > 800)
    && !one.closest('svg') && one.checkVisibility();
}).map((one) => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        try:
            # Without a sandbox, as root in a container: it opens files of these tests alone.
            browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        except playwright.Error as error:
            pytest.skip(f"there is no Chromium to start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, full_page):
    audit = tmp_path_factory.mktemp("browser") / "audit.html"
    audit.write_text(audit_report(failing=2).to_html("Audit of a model"))
    return {"report": full_page, "audit": audit}


@pytest.fixture
def opened(browser, pages):
    """Function that opens a page and collects what it asks for and complains of."""
    contexts, noise = [], []

    def open_page(name, width, scheme):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url) if request.url != url else None)
        url = pages[name].as_uri()
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert noise == []


@pytest.mark.parametrize("name", ["report", "audit"])
@pytest.mark.parametrize(("width", "scheme"), COMBINATIONS)
def test_it_fits_with_everything_unfolded(opened, name, width, scheme):
    page = opened(name, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOW) == []
    ground = page.evaluate("getComputedStyle(document.querySelector('.sensreg')).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.skipif(not AXE.is_file(), reason=f"axe-core is not in {AXE}: npm install --prefix build/browser axe-core")
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("report", 375, "light"), ("report", 1280, "dark"), ("audit", 1280, "light"), ("audit", 375, "dark")],
)
def test_it_is_accessible_with_everything_unfolded(opened, name, width, scheme):
    page = opened(name, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(rule["id"], rule["nodes"][0]["html"][:120]) for rule in found["violations"]] == []


def test_a_heading_sorts_both_ways_and_what_was_not_measured_stays_last(opened):
    page = opened("report", 1280, "light")
    names = "[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[0].dataset.value)"
    values = "[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[COLUMN].dataset.value)"
    heading = page.locator(".sortable thead button", has_text="worst case % at 0.2")
    heading.click()
    assert page.evaluate(names)[0] == "at+sr+jr"
    found = [float(value) for value in page.evaluate(values.replace("COLUMN", "3"))]
    assert found == sorted(found, reverse=True)
    assert page.locator("th[aria-sort=descending]").count() == 1
    heading.click()
    assert page.evaluate(names)[-1] == "at+sr+jr"
    gain = page.locator(".sortable thead button", has_text="gain over none at 0.1")
    for _ in range(2):
        gain.click()
        assert page.evaluate(values.replace("COLUMN", "4"))[-1] == ""
    page.locator(".sortable thead button", has_text="defence").click()
    found = page.evaluate(names)
    assert [found[0], found[-1]] == ["art-adversarial", "sr+jr-cheap"]


def test_folds_open_by_keyboard(opened):
    page = opened("report", 375, "dark")
    fold = page.locator("details", has=page.locator("summary", has_text="Training loss"))
    assert not fold.locator("svg").first.is_visible()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.locator(".narrow svg").is_visible()
    assert not fold.locator(".wide svg").is_visible()


def test_on_a_narrow_screen_rows_are_cards_with_their_headings(opened):
    page = opened("report", 375, "light")
    cell = page.locator(".sortable tbody td").nth(1)
    assert page.evaluate("(one) => getComputedStyle(one, '::before').content", cell.element_handle()) == (
        '"worst case % at 0.1"'
    )
    box = cell.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 375


def test_a_page_in_print_shows_one_version_of_each_chart(opened):
    page = opened("report", 1280, "light")
    page.emulate_media(media="print")
    assert page.locator("figure .narrow:visible").count() == 0
