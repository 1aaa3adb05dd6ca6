import numpy as np
import pytest
from torch import nn

from art_sensreg.interpret import saliency_picture
from art_sensreg.interpret.picture import show_image, show_map, value_range
from tests.interpret.models import images, linear_classifier, smooth_classifier

LABELS = [0, 1, 2]


class Axis:
    def imshow(self, values, **settings):
        self.values, self.settings = values, settings

    def set_xticks(self, ticks):
        pass

    set_yticks = set_xticks


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (2, 4, 4), (4, 4)])
def test_a_picture_is_written(tmp_path, shape):
    from matplotlib.image import imread

    models = {"first": smooth_classifier(shape, clip_values=(0.0, 1.0)), "second": smooth_classifier(shape)}
    path = saliency_picture(models, images(3, shape), LABELS, str(tmp_path / "maps.png"))
    assert path == tmp_path / "maps.png"
    assert [file.name for file in tmp_path.iterdir()] == ["maps.png"]
    height, width = imread(path).shape[:2]
    assert width > height > 100
    one = saliency_picture(models, images(3, shape), LABELS, path, saliencies=["gradient"])
    assert imread(one).shape[1] < width


def test_the_callers_own_figures_stay_as_they_are(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    mine = pyplot.figure()
    try:
        saliency_picture({"mine": smooth_classifier((1, 4, 4))}, images(3, (1, 4, 4)), LABELS, tmp_path / "maps.png")
        assert pyplot.get_fignums() == [mine.number]
        assert pyplot.gcf() is mine
    finally:
        pyplot.close(mine)


def test_a_map_has_a_symmetric_scale_of_its_own():
    axis, values = Axis(), np.zeros((2, 20, 20))
    values[:, 3, 4] = -1e6
    values[0] += np.linspace(-1, 1, 400).reshape(20, 20)
    show_map(axis, values)
    np.testing.assert_array_equal(axis.values, values.sum(0))
    assert axis.settings["vmax"] == -axis.settings["vmin"] == np.percentile(np.abs(values.sum(0)), 99) < 2
    for plane, limit in ((np.zeros((20, 20)), 1.0), (np.eye(20)[:1] * np.eye(20) * 7, 7.0)):
        show_map(axis, plane)
        assert axis.settings["vmax"] == limit


def test_images_are_shown_in_their_range():
    axis = Axis()
    classifier, _ = linear_classifier(clip_values=(-1.0, 3.0))
    assert value_range(classifier, images()) == (-1.0, 3.0)
    assert value_range(linear_classifier()[0], np.zeros((1, 2, 4, 4))) == (0.0, 1.0)
    colours = np.stack([np.full((4, 4), value) for value in (-1.0, 1.0, 3.0)])
    show_image(axis, colours, -1.0, 3.0)
    np.testing.assert_array_equal(axis.values[0, 0], [0.0, 0.5, 1.0])
    show_image(axis, colours[:1], -1.0, 3.0)
    assert (axis.settings["vmin"], axis.settings["vmax"]) == (-1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classifiers": {}}, ValueError, "`classifiers` is {}"),
        ({"classifiers": linear_classifier()[0]}, TypeError, "expected a dict"),
        ({"classifiers": {"mine": nn.Identity()}}, TypeError, "PyTorchClassifier"),
        ({"saliencies": ["lime"]}, ValueError, "`saliencies` is 'lime'"),
        ({"saliencies": "gradient"}, ValueError, "`saliencies` is 'gradient'"),
        ({"x": images(3, (3, 4, 4))}, ValueError, "`x` has shape"),
        ({"y": [0]}, ValueError, "`y` has 1 labels"),
        ({"classifiers": {"mine": smooth_classifier((6,))}, "x": images(3, (6,))}, ValueError, "height"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, error, message):
    given = {"classifiers": {"mine": linear_classifier()[0]}, "x": images(3), "y": LABELS, **arguments}
    with pytest.raises(error, match=message):
        saliency_picture(path=tmp_path / "maps.png", **given)
    assert not list(tmp_path.iterdir())
