"""The former place of norms and attack sizes."""

import pytest

from art_sensreg.benchmark import threats
from art_sensreg.benchmark.config import threat_models


@pytest.mark.parametrize("name", ["Threat", "pair_threats", "threats_to_dict"])
def test_notebooks_may_import_from_the_former_place(name):
    assert getattr(threats, name) is getattr(threat_models, name)


def test_a_former_name_still_works():
    assert threats.threats_as_json is threat_models.threats_to_dict
