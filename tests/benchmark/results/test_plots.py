"""The plots: what the lines go through."""

import pytest
from matplotlib.figure import Figure

from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.results import plots
from art_sensreg.benchmark.results.entries import CurvePoint
from tests.support.results import case, results, run_record


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    figures = []
    monkeypatch.setattr(plots, "save_picture", lambda figure, path: figures.append(figure))
    return figures


def test_a_line_begins_at_the_clean_accuracy(drawn, tmp_path):
    runs = [run_record(seed=seed, worst_case=(case(worst), case(0.1, 0.2))) for seed, worst in ((0, 0.4), (1, 0.6))]
    plots.plot_robustness(results(*runs, seeds=2), tmp_path / "a.png", Threat("linf", (0.1, 0.2)))
    (line,) = drawn[0].axes[0].lines
    assert line.get_xdata() == pytest.approx([0.0, 0.1, 0.2])
    assert line.get_ydata() == pytest.approx([90, 50, 10])


def test_a_random_model_has_a_line_for_each_size(drawn, tmp_path):
    curve = tuple(
        CurvePoint(norm="linf", eps=eps, samples=n, robust_accuracy=1 / n, ci_low=0.0, ci_high=1.0, n=10)
        for eps in (0.1, 0.2)
        for n in (1, 4)
    )
    plots.plot_curve(results(run_record(), run_record(defence="sr", eot_curve=curve)), tmp_path / "a.png")
    lines = drawn[0].axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[1, 4]] * 2
    assert list(lines[0].get_ydata()) == [100, 25]


def test_cost_is_that_of_training_over_that_of_none(drawn, tmp_path):
    runs = [
        run_record(train_seconds=2.0, worst_case=(case(0.1, 0.2),)),
        run_record(defence="sr", train_seconds=5.0, worst_case=(case(0.6, 0.2),)),
        run_record(defence="quantise", train_seconds=2.0, worst_case=(case(0.3, 0.2),)),  # the model of `none`
    ]
    plots.plot_cost(results(*runs), tmp_path / "a.png", "linf", 0.2)
    points = [container.lines[0] for container in drawn[0].axes[0].containers]
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in points] == [(1, 10), (2.5, 60)]
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["none", "sr"]
