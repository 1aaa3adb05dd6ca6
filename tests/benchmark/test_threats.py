"""The former place of norms and attack sizes."""

from art_sensreg.benchmark import threats
from art_sensreg.benchmark.config import threat_models


def test_notebooks_may_import_from_the_former_place():
    assert {getattr(threats, name) is getattr(threat_models, name) for name in threats.__all__} == {True}
