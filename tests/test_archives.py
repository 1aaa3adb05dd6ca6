"""Published data sets without a folder of one's own: nothing runs, nothing unpublished is used."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from art import config

from art_sensreg import archives
from art_sensreg.archives import ARCHIVES, Archive, check_private, read_batches
from art_sensreg.datasets import load_dataset


class Ran(Exception):
    pass


def run_code() -> None:
    raise Ran


class Malicious:
    def __reduce__(self):
        return run_code, ()


def batch(seed: int, n: int = 4, **changes) -> bytes:
    """As the published ones: bytes as keys, as Python 2 wrote them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3072)).astype(np.uint8)
    content = {b"data": images, b"labels": rng.integers(0, 10, n).tolist(), **changes}
    return pickle.dumps(content, protocol=2)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An own data folder of ART, from which nothing can be downloaded."""
    place = tmp_path / "data"
    place.mkdir(mode=0o700)
    monkeypatch.setattr(config, "ART_DATA_PATH", str(place))

    def offline(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    return place


@pytest.fixture
def published(monkeypatch) -> dict[str, bytes]:
    """Small parts with checksums of their own, in the place of the published ones."""
    parts = {name: batch(number) for number, name in enumerate(archives.BATCHES)}
    monkeypatch.setattr(archives, "BATCHES", {name: md5(data) for name, data in parts.items()})
    monkeypatch.setattr(read_batches, "__defaults__", (archives.BATCHES,))
    return parts


def packed(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def publish(monkeypatch, name: str, data: bytes) -> None:
    known = ARCHIVES[name]
    digests = {"sha256": hashlib.sha256(data).hexdigest()}
    changed = Archive(names=known.names, url=known.url, digests=digests, limit=known.limit)
    monkeypatch.setitem(ARCHIVES, name, changed)


def assert_is_cifar(dataset, parts) -> None:
    raw = [pickle.loads(data, encoding="bytes") for data in parts.values()]
    images = np.concatenate([part[b"data"] for part in raw]).reshape(-1, 3, 32, 32) / np.float32(255)
    assert np.array_equal(np.concatenate([dataset.x_train, dataset.x_test]), images.astype(np.float32))
    labels = np.concatenate([part[b"labels"] for part in raw])
    assert np.array_equal(np.concatenate([dataset.y_train, dataset.y_test]), labels)
    assert (len(dataset.x_train), len(dataset.x_test), dataset.name) == (20, 4, "cifar10")


@pytest.mark.parametrize("file", ["cifar-10-batches-py.tar.gz", "cifar-10-python.tar.gz"])
def test_the_archive_of_cifar10(folder, published, monkeypatch, file):
    data = packed(published)
    publish(monkeypatch, "cifar10", data)
    (folder / file).write_bytes(data)
    assert_is_cifar(load_dataset("cifar10"), published)


def test_what_art_has_unpacked_is_used_if_it_is_as_published(folder, published):
    (folder / "cifar-10-batches-py").mkdir()
    for name, data in published.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(data)
    assert_is_cifar(load_dataset("cifar10"), published)
    (folder / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="data_batch_3 is missing or not the published one"):
        load_dataset("cifar10")


def test_a_download_is_kept_if_it_is_the_published_file(folder, published, monkeypatch):
    data = packed(published)
    publish(monkeypatch, "cifar10", data)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO(data))
    assert_is_cifar(load_dataset("cifar10"), published)
    assert [path.name for path in folder.iterdir()] == ["cifar-10-batches-py.tar.gz"]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: pytest.fail("downloaded twice"))
    assert_is_cifar(load_dataset("cifar10"), published)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_another_file_is_neither_used_nor_kept(folder, monkeypatch, name):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO(pickle.dumps(Malicious())))
    with pytest.raises(ValueError, match=r"its checksum differs.*--data-dir"):
        load_dataset(name)
    assert not list(folder.iterdir())
    (folder / ARCHIVES[name].names[0]).write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=f"{ARCHIVES[name].names[0]} is not the published file"):
        load_dataset(name)


def test_without_a_network_the_way_out_is_named(folder):
    with pytest.raises(OSError, match=r"cannot be downloaded \(no network here\).*mnist\.npz.*--data-dir"):
        load_dataset("mnist")


def test_mnist_as_published(folder, monkeypatch):
    file, rng = io.BytesIO(), np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 28, 28)).astype(np.uint8)
    np.savez(file, x_train=images, y_train=np.arange(6) % 3, x_test=images[:2], y_test=np.arange(2))
    publish(monkeypatch, "mnist", file.getvalue())
    (folder / "mnist.npz").write_bytes(file.getvalue())
    dataset = load_dataset("mnist")
    assert np.array_equal(dataset.x_train[:, 0], images.astype(np.float32) / 255)
    assert dataset.name == "mnist"


@pytest.mark.parametrize("kind", ["pipe", "link", "terabyte"])
def test_no_file_of_another_kind_is_opened(folder, tmp_path, kind):
    file = folder / "mnist.npz"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(b"secret")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        with open(file, "wb") as sparse:
            sparse.truncate(2**40)
    with pytest.raises((OSError, ValueError), match=r"mnist\.npz (is a (pipe|symbolic link)|has 1099511627776 bytes)"):
        load_dataset("mnist")


@pytest.mark.parametrize(
    "content",
    [
        Malicious(),
        {b"data": Malicious(), b"labels": [0]},
        {b"data": np.array([Malicious()], dtype=object), b"labels": [0]},
        {b"data": np.zeros((1, 3072)), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((1, 5), np.uint8), b"labels": [0]},
        {b"labels": [0]},
        [],
        os.system,
    ],
)
def test_pickles_make_arrays_and_nothing_else(content):
    """Even with the right checksum."""
    data = pickle.dumps(content, protocol=2)
    with pytest.raises(ValueError, match="CIFAR-10: test_batch cannot be read"):
        read_batches({"test_batch": data}, {"test_batch": md5(data)})


def test_a_truncated_pickle_is_one_error():
    data = batch(0)[:-20]
    with pytest.raises(ValueError, match="test_batch cannot be read"):
        read_batches({"test_batch": data}, {"test_batch": md5(data)})


def test_a_folder_that_the_users_own_group_can_write_into_is_used(folder, published, monkeypatch):
    data = packed(published)
    publish(monkeypatch, "cifar10", data)
    (folder / "cifar-10-python.tar.gz").write_bytes(data)
    folder.chmod(0o775)
    assert_is_cifar(load_dataset("cifar10"), published)
    monkeypatch.setattr(os, "getgid", lambda: folder.stat().st_gid + 1)
    if folder.stat().st_gid:
        with pytest.raises(ValueError, match="others can write into"):
            load_dataset("cifar10")


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_folder_that_others_can_write_into_is_not_used(folder, published, monkeypatch, mode):
    data = packed(published)
    publish(monkeypatch, "cifar10", data)
    (folder / "cifar-10-python.tar.gz").write_bytes(data)
    folder.chmod(mode)
    with pytest.raises(ValueError, match=r"others can write into .*chmod go-w.*cifar10\.npz"):
        load_dataset("cifar10")


def test_a_folder_below_one_that_others_can_write_into(tmp_path):
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    shared.chmod(0o777)
    with pytest.raises(ValueError, match="others can write into"):
        check_private(shared / "mine", "-")
    shared.chmod(0o1777)  # as /tmp: nobody can rename what is mine
    check_private(shared / "mine", "-")
    with pytest.raises(ValueError, match="others can write into"):
        check_private(shared / "not made yet", "-")
