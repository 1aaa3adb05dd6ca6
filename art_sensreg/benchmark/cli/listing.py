"""The output of `--list`: every defence and attack with its paper, and which of ART's defences are left out."""

from __future__ import annotations

from textwrap import wrap

from art_sensreg.benchmark.attacks import ATTACKS, AttackSpec
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences import DEFENCES, Defence
from art_sensreg.benchmark.defences.from_art import LEFT_OUT

_WIDTH, _NAMES = 100, 28


def list_names() -> str:
    """The text, at most 100 columns wide."""
    lines = ["Defences, each with its paper, what it claims, and its options for --set:"]
    for defence in DEFENCES.values():
        lines += _entry(defence.name, _defence(defence))
    lines.append("Attacks, in the order in which they run:")
    for attack in ATTACKS.values():
        lines += _entry(attack.name, _attack(attack))
    lines.append("Defences of ART for PyTorch that are left out, and why:")
    for names, reason in LEFT_OUT.items():
        lines += wrap(f"{names}: {reason}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _entry(name: str, parts: list[str]) -> list[str]:
    """A name, with its description in a column beside it."""
    column = " " * _NAMES
    lines = [line for part in parts for line in wrap(part, _WIDTH, initial_indent=column, subsequent_indent=column)]
    if len(name) > _NAMES - 4:
        return [f"  {name}", *lines]
    return [f"  {name}".ljust(_NAMES) + lines[0][_NAMES:], *lines[1:]]


def _defence(defence: Defence) -> list[str]:
    claim = defence.claim
    if claim.metric == "none":
        claims = f"No claim about evasion. Threat: {claim.threat}."
    else:
        claims = f"Claims {claim.metric.replace('_', ' ')} against {claim.threat}."
    unmet = [f"Not met on the digits: {claim.unmet}."] if claim.unmet else []
    repaired = [f"Repaired: {defence.repaired}."] if defence.repaired else []
    options = [f"Options: {', '.join(defence.options)}."] if defence.options else []
    return [f"{defence.summary} ({defence.paper}).", *repaired, claims, *unmet, *options]


def _attack(attack: AttackSpec) -> list[str]:
    norms = [] if attack.norms == tuple(NORMS) else [f"In {', '.join(attack.norms)} only."]
    return [f"{attack.summary} ({attack.paper}).", *norms]
