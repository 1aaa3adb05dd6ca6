"""The arguments of the suite: one line that says what is wrong, before anything runs."""

import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.cli.suite_parser import make_parser, request_of
from art_sensreg.benchmark.defences.registry import DEFENCES


def test_list(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    for name in (*DEFENCES, "apgd-dlr", "arXiv 2009.11349"):
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet"], "`dataset` is 'imagenet'; expected one of digits, mnist, cifar10"),
        (["--dataset", "missing.npz"], "there is no file missing.npz"),
        (["--defences", "magic"], "magic is unknown; expected all, trainers, none, sr, jr"),
        (["--attacks", "magic"], "magic is unknown; expected all, fgm, pgd"),
        (["--norm", "l3"], "l3 is unknown; expected all, linf, l2, l1"),
        (["--norm", "linf,l2", "--eps", "0.1"], "`--eps` has 1 groups of sizes; expected 2, one for each of the norms"),
        (["--eps", "0.1/0.2"], "`--eps` has 2 groups of sizes; expected 1"),
        (["--norm", "linf,l2", "--eps", "0.1/"], "'' is not a number above 0"),
        (["--norm", "l1", "--attacks", "square"], "names square, which is not defined in l1; only in linf, l2"),
        (["--eps", "0.1,-1"], "'-1' is not a number above 0"),
        (["--eps", "a"], "'a' is not a number above 0"),
        (["--model", "vgg"], "invalid choice: 'vgg'"),
        (["--budget", "huge"], "invalid choice: 'huge'"),
        (["--seeds", "0"], "'0' is not a whole number of at least 1"),
        (["--epochs", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["--set", "sr.sigma"], "'sr.sigma' is not DEFENCE.OPTION=VALUE"),
        (["--set", "magic.sigma=1"], "with a defence of none, sr"),
        (["--set", "sr.sgima=1"], "`--set` names the option 'sgima' of sr; expected one of: sr_weight,"),
        (["--out", ""], "argument --out: '' is not a path"),
        (["--plugin", " "], "argument --plugin: ' ' is not a path"),
        (["--eps", "\uff18/255"], "'\uff18' is not a number above 0"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--optimizer", "lion"], "invalid choice: 'lion'"),
        (["--momentum", "0.9"], "`momentum` is 0.9 and `optimizer` is None; expected sgd"),
        (["--weight-decay", "-1"], "`weight_decay` is -1.0; expected a finite number of at least 0"),
        (["--label-smoothing", "1.0"], "`label_smoothing` is 1.0; expected a finite number of at least 0 and below 1"),
        (["--weight-average", "nan"], "`weight_average` is nan; expected a finite number above 0"),
        (["--max-grad-norm", "0"], "`max_grad_norm` is 0.0; expected a finite number above 0"),
        (["--augment", "crop=4,turn"], "`augment` is 'crop=4,turn'; expected some of crop=N, flip and cutout=N"),
        (["--augment", "crop=8"], "`augment` is 'crop=8': `crop_padding` of `augmentation` is 8 with images of 8 x 8"),
        (["--set", "sr.augment=cutout=9"], "`augment` is 'cutout=9': `cutout` of `augmentation` is 9 with images"),
        (["--schedule", "cosine"], "invalid choice: 'cosine'"),
        (["--set", "art-trades.schedule=cosine"], "`schedule` is 'cosine'; expected one of one-cycle"),
        (["--set", "none.learning_rate=0"], "`learning_rate` is 0; expected a finite number above 0"),
        (["--set", "none.weight_average=often"], "`weight_average` is 'often'; expected a finite number above 0"),
        (
            ["--set", "art-jpeg.weight_decay=0.1"],
            "names the option 'weight_decay' of art-jpeg; expected one of: quality",
        ),
    ],
)
def test_wrong_arguments_give_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sr+jr.sigma=-1", "`sigma` is -1; expected a finite number above 0"),
        ("sr.noise=pink", "`noise` is 'pink'; expected one of gaussian"),
        ("jr.estimator=magic", "`estimator` is 'magic'; expected one of"),
        ("art-madry.max_iter=0", "`max_iter` is 0; expected a whole number of at least 1"),
        ("art-trades.beta=-2", "`beta` is -2; expected a finite number of at least 0"),
        ("art-smoothing.sigma=0", "`sigma` is 0; expected a finite number above 0"),
        ("art-adversarial.ratio=1.5", "`ratio` is 1.5; expected a finite number from 0 to 1"),
        ("art-total-var-min.prob=often", "`prob` is 'often'; expected a finite number from 0 to 1"),
    ],
)
def test_wrong_values_of_options_are_found_before_anything_runs(tmp_path, capsys, option, message):
    with pytest.raises(SystemExit) as stop:
        main(["--set", option, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_error_quotes_a_part_of_what_is_too_long(capsys):
    with pytest.raises(SystemExit):
        main(["--dataset", "x" * 100_000])
    assert len(capsys.readouterr().err) < 2100


def test_unusable_output_folders(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["--defences", "none", "--out", str(tmp_path / "file")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    ["rse.first_std=-1", "pni.initial_alpha=-1", "adv-bnn.prior_std=0", "graddiv.penalty_warmup=3",
     "sr+jr-cheap.penalty_fraction=7", "at+sr+jr.clean_fraction=2", "fire.max_iter=0"],
)  # fmt: skip
def test_options_are_checked_before_anything_runs(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--defences", option.split(".")[0], "--set", option, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_how_every_defence_is_optimised_can_be_given():
    words = "--optimizer sgd --momentum 0.8 --weight-decay 5e-4 --label-smoothing 0.1 --schedule piecewise"
    words += " --weight-average 0.999 --max-grad-norm 0.5 --precision bfloat16 --augment flip,crop=4"
    given = make_parser().parse_args(words.split())
    assert request_of(given).optimization.given == {
        "optimizer": "sgd", "momentum": 0.8, "weight_decay": 5e-4, "label_smoothing": 0.1, "schedule": "piecewise",
        "weight_average": 0.999, "max_grad_norm": 0.5, "precision": "bfloat16", "augment": "crop=4,flip",
    }  # fmt: skip
    assert request_of(make_parser().parse_args([])).optimization.given == {}
