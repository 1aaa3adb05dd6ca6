import os
import pickle

import numpy as np
import pytest

from art_sensreg.datasets import load_dataset
from tests.support.npz_files import archive, member

LABELS = np.array([0, 1, 2, 1])


def arrays(**changes):
    base = {
        "x_train": np.zeros((4, 5, 6), np.uint8),
        "y_train": LABELS,
        "x_test": np.zeros((4, 5, 6), np.uint8),
        "y_test": LABELS,
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (np.full((4, 5, 6), 255, np.uint8), (1, 5, 6)),
        (np.full((4, 5, 6, 3), 255, np.uint8), (3, 5, 6)),
        (np.ones((4, 5, 6, 1), np.float64), (1, 5, 6)),
        (np.ones((4, 5, 6), np.float32), (1, 5, 6)),
        (np.ones((4, 3, 5, 6), np.float32), (3, 5, 6)),
    ],
)
def test_every_accepted_layout_becomes_channels_first(tmp_path, images, shape):
    np.savez(tmp_path / "own.npz", **arrays(x_train=images, x_test=images))
    dataset = load_dataset(str(tmp_path / "own.npz"))
    assert dataset.input_shape == shape
    assert dataset.x_train.dtype == np.float32
    assert dataset.x_train.max() == 1.0
    assert (dataset.name, dataset.nb_classes) == ("own", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.array([{}] * 4, dtype=object)}, r"own.npz cannot be used: `x_train` holds Python objects"),
        ({"y_test": np.array(["a", None, 1, 2], dtype=object)}, r"`y_test` holds Python objects"),
        (
            {"x_test": np.full((4, 5, 6), 2.0)},
            r"`x_test` has values from 2 to 2; expected uint8 images, or floats in \[0, 1\]",
        ),
        ({"x_test": np.full((4, 5, 6), np.nan)}, r"`x_test` has values from nan to nan"),
        ({"x_test": np.zeros((4, 5, 6), np.int32)}, r"`x_test` has dtype int32"),
        ({"x_test": np.zeros((4, 30))}, r"`x_test` has shape \(4, 30\)"),
        ({"x_test": np.zeros((4, 7, 7, 7))}, r"`x_test` has shape \(4, 7, 7, 7\)"),
        ({"x_test": np.zeros((0, 5, 6))}, r"`x_test` has shape \(0, 5, 6\)"),
        (
            {"x_test": np.zeros((4, 5, 5), np.uint8)},
            r"`x_test` has images of shape \(1, 5, 5\), and `x_train` of another",
        ),
        ({"y_train": LABELS[:3]}, r"`x_train` has 4 images and `y_train` 3 labels"),
        ({"y_train": LABELS - 1}, r"`y_train` has dtype int64 and shape \(4,\); expected class indices"),
        ({"y_train": LABELS / 2}, r"`y_train` has dtype float64"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, changes, message):
    np.savez(tmp_path / "own.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message):
        load_dataset(str(tmp_path / "own.npz"))


def test_missing_arrays_are_named(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=np.zeros((4, 5, 6)), labels=LABELS)
    with pytest.raises(ValueError, match=r"it has no y_train, x_test, y_test \(it has x_train, labels\)"):
        load_dataset(str(tmp_path / "own.npz"))


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "own.npz").write_bytes(pickle.dumps({"x_train": 1}))
    with pytest.raises(ValueError, match=r"own.npz cannot be used"):
        load_dataset(str(tmp_path / "own.npz"))


def test_unknown_names_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`dataset` is 'imagenet'; expected one of digits, mnist, cifar10"):
        load_dataset("imagenet")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*mnist.npz; expected an .npz file with x_train"):
        load_dataset("mnist", tmp_path)


def test_the_validation_split_holds_training_images_only(digits):
    split = digits.with_validation_as_test(fraction=0.25)
    assert len(split.x_train) + len(split.x_test) == len(digits.x_train)
    rows = {image.tobytes() for image in digits.x_train}
    assert {image.tobytes() for image in split.x_test} <= rows
    assert {image.tobytes() for image in np.concatenate([split.x_train, split.x_test])} == rows
    again = digits.with_validation_as_test(fraction=0.25)
    assert np.array_equal(split.x_test, again.x_test)


def test_digits_are_the_full_set_in_two_parts(digits):
    assert len(digits.x_train) == 1347
    assert len(digits.x_test) == 450
    assert digits.x_train.min() == 0
    assert digits.x_train.max() == 1


def test_mnist_from_a_folder(data_dir):
    mnist = load_dataset("mnist", data_dir)
    assert mnist.x_train.shape == (60_000, 1, 28, 28)
    assert mnist.x_test.shape == (10_000, 1, 28, 28)
    assert mnist.y_test[:5].tolist() == [7, 2, 1, 0, 4]


def test_damaged_files_are_refused(tmp_path):
    np.savez(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    np.savez(tmp_path / "scalar.npz", **arrays(x_train=np.float32(1)))
    for name in ("cut", "empty", "single", "scalar"):
        with pytest.raises(ValueError, match=rf"`dataset`: {name}.npz cannot be used"):
            load_dataset(str(tmp_path / f"{name}.npz"))


UNUSABLE = {
    "records": {"x_train": member(np.zeros((4, 5, 6), dtype=[("a", "u1"), ("b", "u1")]))},
    "text": {"y_train": member(np.array(["a", "b", "c", "d"]))},
    "dates": {"y_train": member(np.array([0, 1, 2, 3], dtype="datetime64[s]"))},
    "complex images": {"x_train": member(np.zeros((4, 5, 6), complex))},
    "labels of a billion": {"y_train": member(np.array([0, 1, 2, 10**9]))},
    "labels of a billion in the test": {"y_test": member(np.array([0, 1, 2, 10**9]))},
    "labels beyond 64 bits": {"y_train": member(np.array([0, 1, 2, 2**64 - 1], np.uint64))},
    "no labels": {"y_train": member(np.zeros(0, int)), "x_train": member(np.zeros((0, 5, 6), np.uint8))},
    "rows of labels": {"y_train": member(np.eye(4, dtype=int))},
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_arrays_that_are_no_data_set_are_one_line(tmp_path, case):
    archive(tmp_path / "own.npz", **UNUSABLE[case])
    with pytest.raises(ValueError, match=r"^`dataset`: own\.npz cannot be used: ") as stop:
        load_dataset(str(tmp_path / "own.npz"))
    assert "\n" not in str(stop.value)


def test_labels_up_to_a_thousand_classes_are_labels(tmp_path):
    archive(tmp_path / "own.npz", y_train=member(np.array([0, 1, 2, 999])))
    assert load_dataset(str(tmp_path / "own.npz")).nb_classes == 1000


def test_a_pipe_and_a_folder_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileNotFoundError, match=f"there is no file .*{name}.npz"):
            load_dataset(str(tmp_path / f"{name}.npz"))


def test_a_misspelt_name_finds_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'mnist'\?"):
        load_dataset("mnsit")
