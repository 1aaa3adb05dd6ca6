"""How a run optimises weights: ranges, what is given, and the choices of one defence."""

import pytest

from art_sensreg import Augmentation
from art_sensreg.benchmark.config import OptimizationSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adan"}, "`optimizer` is 'adan'; expected one of adam, adamw, sgd"),
        ({"schedule": "cyclic"}, "`schedule` is 'cyclic'; expected one of one-cycle, piecewise, constant"),
        ({"precision": "half"}, "`precision` is 'half'; expected one of float32, bfloat16, float16"),
        ({"augment": "crop=4,turn"}, "`augment` is 'crop=4,turn'; expected some of crop=N, flip and cutout=N"),
        ({"augment": "crop=-1"}, "`augment` is 'crop=-1'; expected"),
        ({"augment": "crop=2,crop=4"}, "`augment` is 'crop=2,crop=4'; expected"),
        ({"augment": "crop=\uff14"}, "`augment` is 'crop=\uff14'; expected"),
        ({"augment": "flip=1"}, "`augment` is 'flip=1'; expected"),
        ({"augment": ""}, "`augment` is ''; expected"),
        ({"augment": 3}, "`augment` is 3; expected"),
        ({"weight_decay": -1e-4}, "`weight_decay` is -0.0001; expected a finite number of at least 0"),
        ({"label_smoothing": 1}, "`label_smoothing` is 1; expected a finite number of at least 0 and below 1"),
        ({"weight_average": 0.0}, "`weight_average` is 0.0; expected a finite number above 0"),
        ({"max_grad_norm": 0}, "`max_grad_norm` is 0; expected a finite number above 0"),
        ({"weight_average": float("nan")}, "`weight_average` is nan; expected a finite number above 0"),
        (
            {"optimizer": "sgd", "momentum": 1.5},
            "`momentum` is 1.5; expected a finite number of at least 0 and below 1",
        ),
        ({"momentum": 0.9}, "`momentum` is 0.9 and `optimizer` is None; expected sgd"),
        ({"optimizer": "adam", "momentum": 0.9}, "`momentum` is 0.9 and `optimizer` is 'adam'; expected sgd"),
    ],
)
def test_what_is_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OptimizationSettings(**values)


def test_a_defence_may_choose_otherwise():
    run = OptimizationSettings(optimizer="sgd", momentum=0.8, weight_decay=5e-4)
    assert run.updated({"weight_decay": 0.0, "sigma": 0.3}).given == {
        "optimizer": "sgd",
        "momentum": 0.8,
        "weight_decay": 0.0,
    }
    # The run's momentum is SGD's.
    assert run.updated({"optimizer": "adam"}).given == {"optimizer": "adam", "weight_decay": 5e-4}
    assert run.updated({"optimizer": None}).given == {"weight_decay": 5e-4}
    with pytest.raises(ValueError, match="expected sgd"):
        run.updated({"optimizer": "adamw", "momentum": 0.9})


def test_augmentation_in_whatever_order():
    asked = OptimizationSettings(augment="flip,cutout=8,crop=4")
    assert asked.augmentation == Augmentation(crop_padding=4, flip=True, cutout=8)
    assert asked == OptimizationSettings(augment="crop=4, flip, cutout=8")
    assert OptimizationSettings(augment=asked.augment) == asked
    assert asked.updated({"augment": "none"}).given == {}
    assert OptimizationSettings(augment="crop=4").augmentation == Augmentation(crop_padding=4)
    with pytest.raises(
        ValueError, match="`augment` is 'crop=9': `crop_padding` of `augmentation` is 9 with images of 8 x 8"
    ):
        OptimizationSettings(augment="crop=9").check_images((1, 8, 8))
