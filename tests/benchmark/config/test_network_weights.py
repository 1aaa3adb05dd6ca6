"""Weights from files of the user: the same weights arrive, and nothing is executed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from art_sensreg.benchmark.config.network_weights import load_network_weights


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
])  # fmt: skip
def test_what_training_scripts_save_is_found(tmp_path, wrap):
    wanted, model = network(1).state_dict(), network(2)
    torch.save(wrap(wanted), tmp_path / "w.pt")
    load_network_weights(tmp_path / "w.pt", model)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_plain_safetensors_without_a_word(tmp_path, caplog):
    wanted, model = network(1).state_dict(), network(2)
    save_file(wanted, tmp_path / "w.safetensors")
    load_network_weights(tmp_path / "w.safetensors", model)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"not a file of torch", "damaged, or holds more than tensors"),
        (nn.Linear(2, 2), "holds more than tensors, which could be code: save `model.state_dict\\(\\)`"),
        ({"0.weight": torch.zeros(3, 4)}, "it has no '0.bias'"),
        ({**network().state_dict(), "0.bias": torch.full((3,), torch.nan)}, "'0.bias'"),
        ({**network().state_dict(), "0.weight": torch.zeros(5, 4)}, "'0.weight'"),
        ([1, 2], "holds list for the weights"),
    ],
)
def test_other_files_are_refused_and_change_nothing(tmp_path, content, message):
    file, model = tmp_path / "w.pt", network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ValueError, match=message) as raised:
        load_network_weights(file, model)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
