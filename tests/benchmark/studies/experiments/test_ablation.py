"""The variants of the ablation: one change each, from a default that is among them."""

from art_sensreg.benchmark.defences.registry import DEFENCES, GENERAL_OPTIONS
from art_sensreg.benchmark.studies.experiments.ablation import variants

# `carried` has no penalties to rise.
SHARED = {
    "sr+jr": {"noise": "gaussian", "penalty_fraction": 1.0},
    "carried+sr+jr": {"optimizer": "adam", "step_share": 0.5, "penalty_warmup": 0.0, "eps_warmup": 0.0},
    "carried": {"optimizer": "adam", "step_share": 0.5, "eps_warmup": 0.0},
}


def test_each_variant_differs_from_its_default_in_one_thing():
    found = {variant.name: variant for variant in variants()}
    assert len(found) == len(variants())
    for variant in found.values():
        default = found["carried" if variant.defence == "carried" else variant.of]
        assert dict(default.options) == SHARED[default.name]
        assert not default.settings
        assert set(default.options) <= set(variant.options)
        changed = variant.options.items() - default.options.items()
        assert len(changed) + len(variant.settings) == (variant.name not in ("sr+jr", "carried+sr+jr", "carried"))
        assert set(variant.options) <= {*DEFENCES[variant.defence].options, *GENERAL_OPTIONS}
