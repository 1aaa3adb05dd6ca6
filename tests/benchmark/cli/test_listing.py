"""What `--list` prints."""

import re

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.cli.listing import list_names
from art_sensreg.benchmark.defences import DEFENCES
from art_sensreg.benchmark.defences.from_art import LEFT_OUT


def test_everything_is_listed_in_lines_of_at_most_100_columns():
    lines = list_names().splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for entry in (*DEFENCES.values(), *ATTACKS.values()):
        assert any(re.match(rf"  {re.escape(entry.name)}( |$)", line) for line in lines), entry.name
        assert f"{entry.name} {entry.summary} ({entry.paper})." in text
    for defence in DEFENCES.values():
        assert defence.repaired in text
        assert defence.claim.threat in text
        assert ", ".join(defence.options) in text
    assert all(f"{names}: {reason}" in text for names, reason in LEFT_OUT.items())
    order = [text.index(f" {name} {attack.summary}") for name, attack in ATTACKS.items()]
    assert order == sorted(order)
