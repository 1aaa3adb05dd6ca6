"""The charts: what lies on the front, which curves have names, one dot for each seed."""

import re
from itertools import pairwise

import pytest

from art_sensreg.benchmark.results.entries import AuditRecord
from art_sensreg.benchmark.results.page import charts
from art_sensreg.benchmark.results.page.charts import (
    Line,
    cost_chart,
    front,
    history_lines,
    line_chart,
    robustness_lines,
)
from art_sensreg.benchmark.results.summary import summary_rows
from art_sensreg.utils.stats import wilson_interval
from tests.support.results import case, results, run_record

SIZE = ("linf", 0.1)


def rows(*runs):
    return summary_rows(results(*runs, seeds=2))


def run(name, cost, share, **changes):
    return run_record(defence=name, step_cost=cost, worst_case=(case(share), case(share / 2, 0.2)), **changes)


def test_the_front_is_what_nothing_as_cheap_is_above():
    bad = AuditRecord(verdict="do not trust: x", checks=())
    found = rows(run("none", 1, 0.2), run("a", 2, 0.5), run("b", 2, 0.6), run("c", 4, 0.55), run("d", 6, 0.7),
                 run("e", 3, 0.99, audit=bad))  # fmt: skip
    assert [row.defence for row in front(found, SIZE)] == ["none", "b", "d"]


def test_a_seed_with_fewer_images_has_no_dot():
    (row,) = rows(run("sr", 2, 0.5), run_record(defence="sr", seed=1, step_cost=3, worst_case=(case(0.9, n=20),)))
    assert charts._dots(row, SIZE) == [(2, 50.0)]


def test_there_is_a_dot_for_each_seed():
    found = rows(run("none", 1, 0.2), run("sr", 2, 0.5), run("sr", 2.5, 0.6, seed=1))
    chart = cost_chart(found, SIZE, "cost")
    for svg in (chart.wide, chart.narrow):
        group = svg[svg.index("<title>sr: 55.0 %, cost 2.2") :]
        assert group[: group.index("</g>\n")].count("<use") == 2 or group.split("<title>")[1].count("<use ") >= 2
        assert ">none</text>" in svg
        assert ">sr</text>" in svg


def test_a_failed_audit_is_told_under_the_pointer():
    bad = AuditRecord(verdict="do not trust: x", checks=())
    assert "failed its audit" in cost_chart(rows(run("sr", 2, 0.5, audit=bad)), SIZE, "cost").wide


def test_curves_begin_at_the_clean_accuracy_with_its_interval():
    (line,) = robustness_lines(rows(run("sr", 2, 0.5)), [SIZE, ("linf", 0.2)], 200)
    assert [x for x, _ in line.points] == [0.0, 0.1, 0.2]
    assert [y for _, y in line.points] == pytest.approx([90.0, 50.0, 25.0])
    assert line.band[0] == pytest.approx([100 * end for end in wilson_interval(180, 200)])


def test_named_curves_have_names_at_their_ends_apart_from_each_other():
    lines = [Line(name=f"d{number}", points=[(0, 90), (1, 50 + 0.1 * number)]) for number in range(10)]
    chart = line_chart(lines, [f"d{number}" for number in range(8)], ("x", "y"), "k", percent=True)
    for svg in (chart.wide, chart.narrow):
        names = re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>(d\d)</text>', svg)
        assert sorted(name for _, name in names) == [f"d{number}" for number in range(8)]
        heights = sorted(float(y) for y, _ in names)
        assert min(b - a for a, b in pairwise(heights)) > 7
        assert "<title>d9</title>" in svg  # grey ones are named under the pointer


def test_histories_are_curves_by_epoch():
    (line,) = history_lines({"sr": [{"loss": 2.0}, {"loss": 1.0}], "jr": [{"other": 1.0}]}, "loss", 10.0)
    assert (line.name, line.points) == ("sr", [(1.0, 20.0), (2.0, 10.0)])
