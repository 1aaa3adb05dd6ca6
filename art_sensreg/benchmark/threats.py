"""The former place of `art_sensreg.benchmark.config.threat_models`, which notebooks import."""

from art_sensreg.benchmark.config.threat_models import Threat, pair_threats, threats_to_dict

threats_as_json = threats_to_dict

__all__ = ["Threat", "pair_threats", "threats_as_json", "threats_to_dict"]
