"""Weights in files: one sealed file, every tensor compared before it is used, nothing changed by what is refused."""

import copy
import os

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from art_sensreg.art_bridge.weights import load_weights, save_weights, weights_file
from art_sensreg.benchmark.engine.train import stored_weights
from tests.art_bridge.saved import make, refused, same, snapshot, trained


def test_weights_and_optimizer_are_one_file(tmp_path):
    classifier = trained()
    classifier.save("net", str(tmp_path))
    assert os.listdir(tmp_path) == ["net.safetensors"]
    other = make()
    other.load_weights("net", str(tmp_path))
    assert same(snapshot(other), snapshot(classifier))
    names = load_file(tmp_path / "net.safetensors")
    assert torch.equal(names["0.weight"], classifier.model[0].weight)


def test_equal_weights_are_equal_files(tmp_path):
    contents = set()
    for number in range(8):
        trained().save(f"net{number}", str(tmp_path))
        contents.add((tmp_path / f"net{number}.safetensors").read_bytes())
    assert len(contents) == 1


def test_any_flipped_bit_and_any_truncation_is_refused(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    file = tmp_path / "net.safetensors"
    save_weights(file, model, optimizer)
    data = file.read_bytes()
    other = nn.Linear(2, 1)
    before = copy.deepcopy(other.state_dict())
    damaged = [data[:end] for end in range(0, len(data), 7)] + [data + b"\0"]
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << (place * 5 + 3) % 8
        damaged.append(bytes(changed))
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"net.safetensors' cannot be read as weights"):
            load_weights(file, other)
    assert same(other.state_dict(), before)


def test_a_flipped_bit_in_a_checkpoint_of_the_suite_is_seen(tmp_path, caplog):
    file = tmp_path / "none-seed0.safetensors"
    save_weights(file, model := nn.Linear(2, 1))
    assert same(stored_weights(file, nn.Linear(2, 1)), model.state_dict())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # the last byte of a weight
    file.write_bytes(data)
    other = nn.Linear(2, 1)
    before = copy.deepcopy(other.state_dict())
    assert stored_weights(file, other) is None
    assert "the checksums of its tensors do not match, so it is damaged): this defence is trained again" in caplog.text
    assert same(other.state_dict(), before)


@pytest.mark.parametrize("plain", [False, True], ids=["sealed", "plain"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.update({"0.weight": w["0.weight"].half()}),
            r"'0.weight' of torch.float16; expected torch.float32",
        ),
        (lambda w: w.update({"0.weight": w["0.weight"].to(torch.int8)}), r"'0.weight' of torch.int8"),
        (lambda w: w["0.weight"].view(-1)[0].fill_(torch.nan), r"'0.weight' with 1 NaN or infinite values"),
        (lambda w: w["1.running_var"].fill_(torch.inf), r"'1.running_var' with 4 NaN or infinite"),
        (lambda w: w.update({"0.weight": torch.zeros(3, 4)}), r"'0.weight' of shape \(3, 4\); expected \(4, 3\)"),
        (lambda w: w.pop("0.bias"), r"has no '0.bias'"),
        (lambda w: w.update(more=torch.zeros(1)), r"holds 'more'; expected weights of this architecture"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message, plain):
    weights = copy.deepcopy(make().model.state_dict())
    change(weights)
    if plain:
        save_file(weights, tmp_path / "net.safetensors")
    else:
        module = nn.Module()
        module.state_dict = lambda: weights
        save_weights(tmp_path / "net.safetensors", module)
    refused(trained(), tmp_path, message)


def test_an_infinite_buffer_of_the_model_is_not_damage(tmp_path):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    save_weights(tmp_path / "net.safetensors", model := Masked())
    load_weights(tmp_path / "net.safetensors", other := Masked())
    assert same(other.state_dict(), model.state_dict())


def test_plain_files_are_read_with_a_warning(tmp_path, caplog):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
            self.second.weight = self.first.weight

    save_model(model := Tied(), tmp_path / "net.safetensors")
    load_weights(tmp_path / "net.safetensors", other := Tied())
    assert same(other.state_dict(), model.state_dict())
    assert "is a plain file of safetensors, with no checksum" in caplog.text
    caplog.clear()
    save_weights(tmp_path / "net.safetensors", model)
    load_weights(tmp_path / "net.safetensors", again := Tied())
    assert same(again.state_dict(), model.state_dict())
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("put", "kind"),
    [
        (lambda file: None, FileNotFoundError),
        (lambda file: file.mkdir(), IsADirectoryError),
        (lambda file: os.mkfifo(file), OSError),
        (lambda file: file.symlink_to("/dev/zero"), OSError),
        (lambda file: file.symlink_to(file), OSError),
        (lambda file: file.symlink_to("nowhere"), FileNotFoundError),
        (lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_RDWR), 2**42), ValueError),
        (lambda file: file.write_bytes(b""), ValueError),
        (lambda file: file.write_bytes(b"[" * 200_000), ValueError),
        (lambda file: file.write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000), ValueError),
        (lambda file: file.write_bytes((2).to_bytes(8, "little") + b"[]"), ValueError),
        (lambda file: file.write_bytes((11).to_bytes(8, "little") + b'{"a":[1,2]}'), ValueError),
        (lambda file: torch.save({}, file), ValueError),
    ],
)
def test_files_that_hold_no_weights_are_refused(tmp_path, put, kind):
    put(tmp_path / "net.safetensors")
    refused(trained(), tmp_path, "net.safetensors", kind)


def test_nothing_but_a_file_is_overwritten(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    for name in ("net.safetensors", "pipe.safetensors.part"):
        (tmp_path / name).symlink_to(other)
    with pytest.raises(FileExistsError, match=r"net.safetensors' is not a regular file"):
        make().save("net", str(tmp_path))
    make().save("pipe", str(tmp_path))
    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../net", "a/../../net", "/tmp/net", "folder/", "a\nb", "a\0b", 3, None]
)
def test_a_name_does_not_leave_the_folder(tmp_path, name):
    for action in (make().save, make().load_weights):
        with pytest.raises(TypeError if not isinstance(name, str) else ValueError, match="`filename` is"):
            action(name, str(tmp_path / "folder"))
    assert list(tmp_path.iterdir()) == []
    assert weights_file("below/net", tmp_path) == tmp_path / "below" / "net.safetensors"
