"""`art-sensreg list` and `--list`: all defences, attacks and checks, or one of them with its options and paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from art_sensreg.auditing import CHECKS, CheckSpec
from art_sensreg.benchmark.attacks import ATTACKS, AttackSpec
from art_sensreg.benchmark.cli.arguments import program_parser
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.plugin import load_plugin
from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences import DEFENCES, Defence
from art_sensreg.benchmark.defences.from_art import LEFT_OUT
from art_sensreg.benchmark.defences.registry import GENERAL_OPTIONS
from art_sensreg.utils.checks import did_you_mean

_WIDTH, _NAMES = 100, 28
_EXAMPLES = """
  art-sensreg list                  all defences and attacks
  art-sensreg list checks           the checks of the audit
  art-sensreg list sr+jr pgd        two of them, with options and papers
"""
_GENERAL = f"options {', '.join(GENERAL_OPTIONS)}"
_NORM_WORDS = {"linf": "L-inf", "l2": "L2", "l1": "L1"}


def main(arguments: Sequence[str] | None = None, prog: str = "art-sensreg list") -> int:
    """Print what is known; the exit code is 0, or 2 for an unknown name."""
    load_plugin(arguments, prog)
    parser = program_parser(
        prog, "Show all defences, attacks and checks, or some of them with their options and papers.", _EXAMPLES
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a defence, an attack or a check; or `checks`")
    parser.add_argument("--plugin", type=Path, metavar="FILE", help="Python file that registers your own")
    given = parser.parse_args(arguments)
    try:
        say(list_some(given.names) if given.names else list_names())
    except ValueError as error:
        parser.error(str(error))
    return 0


def list_names() -> str:
    """All defences and attacks, at most 100 columns wide."""
    lines = ["Defences, each with its paper, what it claims, and its options for --set:"]
    for defence in DEFENCES.values():
        lines += _entry(defence.name, _defence(defence))
    lines += wrap(
        f"Every defence that trains a model: {_GENERAL}.", _WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    lines.append("Attacks, in the order in which they run:")
    for attack in ATTACKS.values():
        lines += _entry(attack.name, _attack(attack))
    lines.append("Defences of ART for PyTorch that are left out, and why:")
    for names, reason in LEFT_OUT.items():
        lines += wrap(f"{names}: {reason}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def list_checks() -> str:
    """All checks of the audit, at most 100 columns wide."""
    return "\n".join(
        line for spec in CHECKS.values() for line in _entry(spec.name, [spec.measures, f"({spec.source})"])
    )


def list_some(names: Sequence[str]) -> str:
    """
    Defences, attacks and checks with all that is known of them.

    :raises ValueError: If a name is unknown; it names the nearest.
    """
    known = {*DEFENCES, *ATTACKS, *CHECKS, "checks"}
    for name in names:
        if name not in known:
            raise ValueError(
                f"{name!r} is no defence, attack or check{did_you_mean(name, known)} Without a name all are listed"
            )
    return "\n\n".join("\n".join(_details(name)) for name in names)


def _details(name: str) -> list[str]:
    if name == "checks":
        return [list_checks()]
    lines = []
    if name in DEFENCES:
        defence = DEFENCES[name]
        lines += [f"{name} (defence)", *_rows([("", text) for text in _defence(defence, options=False)])]
        lines += _options(defence)
    if name in ATTACKS:
        lines += [f"{name} (attack)", *_rows(_attack_rows(ATTACKS[name]))]
    if name in CHECKS:
        lines += [f"{name} (check of the audit)", *_rows(_check_rows(CHECKS[name]))]
    return lines


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Texts under a heading, each behind its label if it has one."""
    lines = []
    for label, text in rows:
        start = f"  {label}: " if label else "  "
        lines += wrap(text, _WIDTH, initial_indent=start, subsequent_indent="    ")
    return lines


def _options(defence: Defence) -> list[str]:
    """The options, each with its default, or with its value for each data set."""
    general = wrap(_GENERAL, _WIDTH, initial_indent="  ", subsequent_indent="    ") if defence.trained else []
    if not defence.options:
        return general or ["  no options"]
    lines = [f"  options, for --set {defence.name}.OPTION=VALUE:"]
    recipes = {**{name: recipe.penalties for name, recipe in RECIPES.items()}, "others": FILE_RECIPE.penalties}
    for option, default in defence.options.items():
        values = {data: penalties.get(defence.name, {}).get(option) for data, penalties in recipes.items()}
        if default is not None:
            text = str(default)
        elif option == "eps":
            text = "the largest --eps of the first norm"
        elif option == "norm":
            text = "the first --norm"
        else:
            text = ", ".join(f"{value} on {data}" for data, value in values.items() if value is not None) or "None"
        lines += _entry(f"  {option}", [text])
    for data, recipe in RECIPES.items():
        chosen = ", ".join(f"{option} {value}" for option, value in recipe.optimization.get(defence.name, {}).items())
        lines += wrap(f"trained on {data} with {chosen}", _WIDTH, initial_indent="  ") if chosen else []
    return lines + general


def _attack_rows(attack: AttackSpec) -> list[tuple[str, str]]:
    kinds = [
        "black box: it uses no gradients" if attack.black_box else "white box",
        *(["searches for the smallest perturbation"] if attack.minimal_norm else []),
        *(["attacks with other trained models of the run"] if attack.needs_surrogates else []),
        *(["square images only"] if attack.square_images else []),
        *([f"needs {attack.min_classes} classes"] if attack.min_classes > 2 else []),
    ]
    rows = [
        ("", f"{attack.summary}."),
        ("paper", attack.paper),
        ("norms", ", ".join(_NORM_WORDS[norm] for norm in attack.norms)),
        ("kind", "; ".join(kinds)),
        ("runs by default", f"from the budget {attack.default_from}" if attack.default_from != "full" else "at full"),
    ]
    for budget, settings in attack.settings.items():
        if settings:
            rows.append((f"at {budget}", ", ".join(f"{name} {value}" for name, value in settings.items())))
    return rows


def _check_rows(check: CheckSpec) -> list[tuple[str, str]]:
    return [("measures", check.measures), ("if it fails", check.meaning), ("source", check.source)]


def _entry(name: str, parts: list[str]) -> list[str]:
    """A name, with its description in a column beside it."""
    column = " " * _NAMES
    lines = [line for part in parts for line in wrap(part, _WIDTH, initial_indent=column, subsequent_indent=column)]
    if len(name) > _NAMES - 4:
        return [f"  {name}", *lines]
    return [f"  {name}".ljust(_NAMES) + lines[0][_NAMES:], *lines[1:]]


def _defence(defence: Defence, options: bool = True) -> list[str]:
    claim = defence.claim
    if claim.metric == "none":
        claims = f"No claim about evasion. Threat: {claim.threat}."
    else:
        claims = f"Claims {claim.metric.replace('_', ' ')} against {claim.threat}."
    unmet = [f"Not met on the digits: {claim.unmet}."] if claim.unmet else []
    repaired = [f"Repaired: {defence.repaired}."] if defence.repaired else []
    listed = [f"Options: {', '.join(defence.options)}."] if options and defence.options else []
    return [f"{defence.summary} ({defence.paper}).", *repaired, claims, *unmet, *listed]


def _attack(attack: AttackSpec) -> list[str]:
    norms = [] if attack.norms == tuple(NORMS) else [f"In {', '.join(attack.norms)} only."]
    return [f"{attack.summary} ({attack.paper}).", *norms]
