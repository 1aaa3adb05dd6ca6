"""What the project says about itself agrees with what is there."""

import re

import yaml

import art_sensreg
from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_citation_is_of_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == art_sensreg.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)


def test_the_targets_of_make_that_pages_name_exist():
    rules = re.findall(r"^([a-z0-9 -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {name for rule in rules for name in rule.split()}
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)}
    assert {"bench", "test", "lint"} <= named <= targets


def test_the_container_uses_the_targets_of_make():
    makefile, container = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))
    named = re.findall(r"^RUN make (\S+)|\"make\", \"(\S+)\"", container, re.MULTILINE)
    assert {first or second for first, second in named} == {".venv/installed", "bench"} <= targets


def test_the_programs_that_pages_name_exist():
    named = {name for page in PAGES for name in re.findall(r"benchmarks/\w+\.py", page.read_text())}
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_contributors_find_every_folder_in_the_table():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:tests|art_sensreg|docs)/[\w/.]+)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    rows = text.split("| what it contains |")[1].split("\n\n")[0].splitlines()[2:]
    parts = {name for row in rows for name in re.findall(r"`([a-z_]+(?:/|\.py))`", row.split("|")[1])}
    assert {name for name in parts if not (ROOT / "art_sensreg" / name).exists()} == set()
    assert {f"{path.parent.name}/" for path in (ROOT / "art_sensreg").glob("*/__init__.py")} <= parts


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
