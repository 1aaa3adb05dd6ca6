"""Data by name, from folders of images and from functions: the same pixels and labels arrive, in float32."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from art_sensreg.benchmark.config.data_sources import open_dataset
from art_sensreg.datasets import load_dataset

RNG = np.random.default_rng(0)


def save(folder, name, pixels):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def pictures(*shape, n=8):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def test_names_are_as_before():
    assert open_dataset("digits").crc32 == load_dataset("digits").crc32


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_a_folder_with_parts(tmp_path, shape, test):
    images = {(part, name): pictures(*shape) for part in ("train", test) for name in ("cat", "dog")}
    for (part, name), pixels in images.items():
        for number, picture in enumerate(pixels):
            save(tmp_path / part / name, f"{number}.png", picture)
    data = open_dataset(str(tmp_path))
    assert data.input_shape == (3 if len(shape) == 3 else 1, 6, 5)
    assert (data.name, data.nb_classes, data.x_train.dtype) == (tmp_path.name, 2, np.float32)
    for part, x, y in (("train", data.x_train, data.y_train), (test, data.x_test, data.y_test)):
        for label, name in enumerate(("cat", "dog")):
            found = {picture.tobytes() for picture in x[y == label]}
            wanted = images[part, name].reshape(8, 6, 5, -1).transpose(0, 3, 1, 2).astype(np.float32) / 255
            assert found == {np.ascontiguousarray(picture).tobytes() for picture in wanted}
    assert len(set(data.y_test[:8])) == 2  # mixed: the first ones are not all cats


def test_a_folder_of_classes_alone_is_divided_the_same_way_each_time(tmp_path):
    for name in ("a", "b", "c"):
        for number, picture in enumerate(pictures(4, 4)):
            save(tmp_path / name, f"{number}.png", picture)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._0.png").write_text("what macOS leaves")
    (tmp_path / ".hidden").mkdir()
    data = open_dataset(str(tmp_path))
    assert (len(data.x_train), len(data.x_test)) == (18, 6)
    assert sorted(data.y_test) == [0, 0, 1, 1, 2, 2]
    assert open_dataset(str(tmp_path)).crc32 == data.crc32
    together = {picture.tobytes() for picture in np.concatenate([data.x_train, data.x_test])}
    assert len(together) == 24


def test_grey_among_coloured_images_and_a_turned_photograph(tmp_path):
    for name in ("a", "b"):
        for number in range(4):
            save(tmp_path / name, f"{number}.png", pictures(4, 4, 3)[0] if number else pictures(4, 4)[0])
    turned = Image.fromarray(pictures(4, 4, 3)[0])
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "a" / "9.png", exif=exif)
    data = open_dataset(str(tmp_path))
    assert data.input_shape == (3, 4, 4)
    wanted = np.rot90(np.asarray(turned), -1).transpose(2, 0, 1).astype(np.float32) / 255
    assert any(np.array_equal(picture, wanted) for picture in np.concatenate([data.x_train, data.x_test]))


def broken(folder, kind):
    for name in ("a", "b"):
        for number, picture in enumerate(pictures(4, 4, n=4)):
            save(folder / name, f"{number}.png", picture)
    if kind == "size":
        save(folder / "b", "9.png", pictures(5, 4)[0])
    elif kind == "empty":
        (folder / "c").mkdir()
    elif kind == "damaged":
        (folder / "b" / "9.png").write_bytes(b"no image")
    elif kind == "depth":
        Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(folder / "b" / "9.png")
    elif kind == "transparent":
        save(folder / "b", "9.png", np.full((4, 4, 4), 128, dtype=np.uint8))
    elif kind == "single":
        save(folder / "c", "0.png", pictures(4, 4)[0])
    elif kind == "train":
        save(folder / "train" / "a", "0.png", pictures(4, 4)[0])
    elif kind == "parts":
        save(folder / "train" / "a", "0.png", pictures(4, 4)[0])
        save(folder / "train" / "b", "0.png", pictures(4, 4)[0])
        save(folder / "test" / "a", "0.png", pictures(4, 4)[0])
        save(folder / "test" / "z", "0.png", pictures(4, 4)[0])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", "it has images of 4 x 4 and 4 x 5 \\(9.png\\); expected one size|4 x 5 and 4 x 4"),
        ("empty", "c holds no images"),
        ("damaged", "9.png cannot be read as an image"),
        ("depth", "9.png is an image of mode I;16; expected grey or RGB of 8 bits"),
        ("transparent", "9.png has transparent parts"),
        ("single", "the class 'c' has one image"),
        ("train", "it has one of train and test or val or validation"),
        ("parts", "the class 'b' is in one of"),
    ],
)
def test_folders_that_cannot_be_used_rightly_are_refused(tmp_path, kind, message):
    broken(tmp_path / "images", kind)
    with pytest.raises(ValueError, match=f"`dataset`: the folder .*images cannot be used: .*({message})") as raised:
        open_dataset(str(tmp_path / "images"))
    assert "\n" not in str(raised.value)


CODE = """
import numpy as np, torch
from art_sensreg.datasets import load_dataset

D = load_dataset("digits").limited(40, 20)
ARRAYS = (D.x_train, D.y_train, D.x_test, D.y_test)

def arrays(): return ARRAYS
def pairs(): return ARRAYS[:2], ARRAYS[2:]
def like_art(): return (D.x_train, np.eye(10)[D.y_train]), (D.x_test, np.eye(10)[D.y_test]), 0.0, 1.0
def tensors(): return tuple(map(torch.from_numpy, ARRAYS))
def table(): return dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS))
def dataset(): return D
def three(): return ARRAYS[:3]
def raises(): raise OSError("no\\nsuch thing")
def range_255(): return (D.x_train * 255, *ARRAYS[1:])
CONSTANT = 3
"""


@pytest.mark.parametrize("name", ["arrays", "pairs", "like_art", "tensors", "table", "dataset"])
def test_a_function_of_the_user(tmp_path, name):
    (tmp_path / "data.py").write_text(CODE)
    data = open_dataset(f"{tmp_path}/data.py:{name}")
    assert data.crc32 == load_dataset("digits").limited(40, 20).crc32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", "returned .*; expected x_train, y_train, x_test, y_test, or a dict of these"),
        ("raises", "raised OSError: no such thing"),
        ("range_255", "`x_train` has values from 0 to 255; expected uint8 images, or floats"),
        ("CONSTANT", "is 3; expected a function"),
        ("arays", "has no 'arays'. Did you mean 'arrays'"),
    ],
)
def test_a_function_that_cannot_be_used(tmp_path, name, message):
    (tmp_path / "data.py").write_text(CODE)
    with pytest.raises(ValueError, match=f"`dataset`: .*{message}") as raised:
        open_dataset(f"{tmp_path}/data.py:{name}")
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there():
    with pytest.raises(ValueError, match="`dataset` is 'my/images', which is no folder; expected one of digits"):
        open_dataset("my/images")
