"""The report: pages and plots, made from results alone."""

from dataclasses import replace

from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.results.entries import AttackRecord, CurvePoint
from art_sensreg.benchmark.results.report import total_minutes, write_report
from art_sensreg.benchmark.results.writing import results_json, write_text
from tests.paths import ROOT
from tests.support.results import case, results, run_record


def report(tmp_path, found, *commands):
    write_text(tmp_path / "results.json", results_json(replace(found, commands=commands)))
    return write_report([tmp_path], tmp_path)


HOSTILE = "<script>alert(1)</script> | [x](http://y)"


def test_pages_and_plots(tmp_path):
    curve = (CurvePoint(norm="linf", eps=0.1, samples=4, robust_accuracy=0.5, ci_low=0.0, ci_high=1.0, n=10),)
    runs = run_record(worst_case=(case(0.5), case(0.1, 0.2))), run_record(defence="sr", eot_curve=curve)
    threats = (Threat("linf", (0.1, 0.2)), Threat("l2", (0.5,)))
    paths = report(tmp_path, results(*runs, threats=threats), "python suite.py")
    names = ["robustness.png", "robustness-l2.png", "eot-curve.png", "report.md", "report.html"]
    assert [path.name for path in paths] == names
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names[:3])
    for name in names[3:]:
        page = (tmp_path / name).read_text()
        assert "digits, mlp, linf, l2" in page
        assert "python suite.py" in page
        assert "50.0" in page
    assert ">Random models<" in (tmp_path / "report.html").read_text()


def test_pages_say_which_rows_have_options_that_others_have_not(tmp_path):
    plain = results(run_record())
    own = {plain.config.defences[0]: {"optimizer": "sgd", "learning_rate": 0.2}, "absent": {"sigma": 0.1}}
    report(tmp_path, replace(plain, config=replace(plain.config, options=own)))
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "Options of individual rows" in text
        assert ": optimizer sgd, learning" in text
        assert "absent" not in text
    report(tmp_path, plain)
    assert "Options of individual rows" not in (tmp_path / "report.md").read_text()


def test_pages_quote_what_they_are_given(tmp_path):
    failed = run_record(clean_accuracy=None, status="error", reason=HOSTILE)
    report(tmp_path, results(failed))
    for name in ("report.md", "report.html"):
        page = (tmp_path / name).read_text()
        assert "<script>alert" not in page
        assert "alert(1)" in page
        assert "](http" not in page or name == "report.html"


def test_the_blocks_of_a_page_are_apart(tmp_path):
    report(tmp_path, results(run_record()))
    lines = (tmp_path / "report.md").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#") and number:
            assert lines[number - 1] == lines[number + 1] == ""


def test_a_run_of_several_sizes_counts_once():
    attacks = tuple(AttackRecord(attack="deepfool", norm="linf", eps=eps, seconds=60.0) for eps in (0.1, 0.2))
    assert total_minutes(results(run_record(train_seconds=30.0, attacks=attacks))) == 1.5


def test_several_folders_make_one_report(tmp_path):
    for name, run in (("a", run_record()), ("b", run_record(defence="sr", worst_case=(case(0.5),)))):
        (tmp_path / name).mkdir()
        write_text(
            tmp_path / name / "results.json", results_json(replace(results(run), commands=(f"python {name}.py",)))
        )
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(part in page for part in ("python a.py", "python b.py", ">none<", ">sr<"))


def test_without_matplotlib_the_text_is_written_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("art_sensreg.benchmark.results.report.find_spec", lambda name: None)
    source = ROOT / "docs" / "results" / "digits-bench.json"
    assert write_report([source], tmp_path) == [tmp_path / "report.md"]
    assert "need matplotlib" in caplog.text
