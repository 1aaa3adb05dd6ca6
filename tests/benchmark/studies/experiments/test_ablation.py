"""The variants of the ablation: one change each, from a default that is among them."""

from art_sensreg.benchmark.defences.registry import DEFENCES, GENERAL_OPTIONS
from art_sensreg.benchmark.studies.experiments.ablation import variants


def test_each_variant_differs_from_its_default_in_one_thing():
    found = {variant.name: variant for variant in variants()}
    assert len(found) == len(variants())
    for variant in found.values():
        default = found[variant.of]
        assert dict(default.options) == ({"optimizer": "adam"} if default.name.startswith("carried") else {})
        assert not default.settings
        assert default.options.items() <= variant.options.items()
        assert len(variant.options) - len(default.options) + len(variant.settings) == (
            variant.name not in ("sr+jr", "carried+sr+jr", "carried")
        )
        assert set(variant.options) <= {*DEFENCES[variant.defence].options, *GENERAL_OPTIONS}
