"""The cells of the main table: what they are sorted by, and what is wrong with a number."""

from art_sensreg.benchmark.results.entries import AttackRecord, AuditRecord
from art_sensreg.benchmark.results.page.table import main_table
from tests.support.results import case, results, run_record


def cells(*runs, **changes):
    table = main_table(results(*runs, **{"test_size": 200, **changes}), ("linf", 0.1))
    return {name: dict(zip(table.header[1:], entries, strict=True)) for name, _, entries in table.rows}


def attack(name, n, status="ok"):
    share = 0.5 if status == "ok" else None
    mask = "masks/a.npz" if status == "ok" else None
    return AttackRecord(attack=name, norm="linf", eps=0.1, status=status, robust_accuracy=share, n=n, mask=mask)


def test_a_cell_has_interval_and_number_of_images_and_is_sorted_by_its_number():
    found = cells(run_record(worst_case=(case(0.5),)))["none"]["worst case % at 0.1"]
    assert (found.text, found.value, found.flags) == ("50.0", "0.5", ())
    assert found.aside == "43.1 to 56.9, n\u00a0200"


def test_flags_stand_beside_the_number_that_they_concern():
    attacks = (attack("pgd", 200), attack("deepfool", 50), attack("fgm", 0, "error"))
    run = run_record(worst_case=(case(0.5), case(0.5, 0.2, n=50)), attacks=attacks)
    found = cells(run)["none"]
    assert found["worst case % at 0.1"].flags == ("fewer images: deepfool 50", "failed: fgm")
    assert found["worst case % at 0.2"].flags == ("50 of 200 images",)
    noisy = run_record(step_cost=2.0, step_cost_repeats=(1.0, 2.0, 4.0))
    assert cells(noisy)["none"]["step cost"].flags == ("unsteady machine",)


def test_a_gain_within_the_sampling_error_is_called_so():
    runs = (
        run_record(worst_case=(case(0.5), case(0.5, 0.2))),
        run_record(defence="sr", worst_case=(case(0.52), case(0.3, 0.2))),
    )
    found = cells(*runs)["sr"]
    assert found["gain over none at 0.1"].text == "+2.0"
    assert found["gain over none at 0.1"].aside.endswith("within the sampling error")
    assert found["gain over none at 0.2"].tone == "bad"
    assert cells(*runs)["none"]["gain over none at 0.1"].text == "-"


def test_an_audit_is_short_and_sorted_by_its_verdict():
    verdicts = ["do not trust: a, b, c, d", "no failure detected", "not audited: its preprocessing is too slow"]
    runs = [run_record(defence=name, audit=AuditRecord(verdict=verdict, checks=()))
            for name, verdict in zip(("none", "sr", "jr"), verdicts, strict=True)]  # fmt: skip
    found = cells(*runs, run_record(defence="fire"))
    assert [(found[name]["audit"].text, found[name]["audit"].value, found[name]["audit"].tone) for name in found] == [
        ("do not trust: a, b and 2 more", "0", "bad"), ("no failure detected", "2", "good"), (verdicts[2], "1", "soft"),
        ("not audited", "1", "soft"),
    ]  # fmt: skip


def test_many_sizes_have_one_column_of_gains():
    from art_sensreg.benchmark.config.threat_models import Threat

    threats = (Threat("linf", (0.1, 0.2)), Threat("l2", (0.5, 1.0)))
    table = main_table(results(run_record(), threats=threats), ("linf", 0.1))
    assert [name for name in table.header if name.startswith("gain")] == ["gain over none at linf 0.1"]
