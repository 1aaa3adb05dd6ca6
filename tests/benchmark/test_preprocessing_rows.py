"""The former place of a preprocessor that documentation has shown."""

from art_sensreg.benchmark import preprocessing_rows
from art_sensreg.benchmark.defences.from_art import preprocessing


def test_notebooks_may_import_from_the_former_place():
    assert preprocessing_rows.Quantise is preprocessing.Quantise
