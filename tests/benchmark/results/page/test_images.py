"""Images before and after an attack, inside the page."""

import base64
import io

import numpy as np
from PIL import Image

from art_sensreg.benchmark.results.examples import Examples, write_examples
from art_sensreg.benchmark.results.merge import Source
from art_sensreg.benchmark.results.page.images import gallery, picture_of
from tests.support.results import results, run_record


def stored(out, name, shape=(1, 8, 8), seed=0):
    x = np.random.default_rng(seed).random((4, *shape), dtype=np.float32)
    logits = np.zeros((2, 4, 10))
    logits[0, range(4), range(4)] = logits[1, range(4), [0, 5, 5, 3]] = 1
    examples = Examples(norm="linf", eps=0.1, steps=20, x=x, x_adv=1 - x, y=np.arange(4), logits=logits)
    file = f"examples/{name}-seed0.npz"
    write_examples(out, file, examples)
    return run_record(defence=name, examples=file), x


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_images_show_what_they_are_taken_for(tmp_path):
    run, x = stored(tmp_path, "sr")
    found = gallery([Source(path=tmp_path, results=results(run))])
    assert [picture.caption for picture in found.clean] == ["class 0", "class 1", "class 2", "class 3"]
    ((name, pictures),) = found.attacked
    assert name == "sr"
    assert [(picture.caption, picture.wrong) for picture in pictures] == [
        ("0 → 0", False), ("1 → 5", True), ("2 → 5", True), ("3 → 3", False)
    ]  # fmt: skip
    assert np.array_equal(pixels(found.clean[0].source), np.round(255 * x[0, 0]))
    assert np.array_equal(pixels(pictures[0].source), np.round(255 * (1 - x[0, 0])))


def test_large_colour_images_are_few_and_small(tmp_path):
    run, _ = stored(tmp_path, "sr", (3, 200, 100))
    found = gallery([Source(path=tmp_path, results=results(run))])
    assert len(found.clean) == 3
    assert pixels(found.clean[0].source).shape == (64, 32, 3)


def test_what_is_missing_or_of_other_images_is_left_out(tmp_path):
    first, _ = stored(tmp_path, "sr")
    other, _ = stored(tmp_path, "jr", seed=1)
    gone = run_record(examples="examples/gone.npz")
    found = gallery([Source(path=tmp_path, results=results(gone, first, other))])
    assert [name for name, _ in found.attacked] == ["sr"]
    assert gallery([Source(path=tmp_path, results=results(gone))]) is None
    assert picture_of(tmp_path / "saliency.png") is None
