"""Networks by name and of the user's own: what is built, and what is refused before anything is trained."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.benchmark.config import networks
from art_sensreg.benchmark.config.networks import Network, check_network_name
from art_sensreg.models import build_model

GREY = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
CODE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=10, input_shape=(1, 8, 8)):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[0] * 64, num_classes))

def build():
    return Net()

def fixed():
    return KEPT

def wide():
    return Net(100)

def narrow():
    return Net(3)

def rows():
    return nn.Flatten(0)

def wrong_size():
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 10))

def needs_more(depth):
    return Net()

class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x

KEPT = Net()
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


def test_a_name_of_the_package_is_what_it_was():
    torch.manual_seed(0)
    ours = Network(name="mlp", activation="gelu").build((1, 8, 8), 10)
    torch.manual_seed(0)
    wanted = build_model("mlp", (1, 8, 8), 10, "gelu")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), wanted.parameters(), strict=True))


def test_a_function_or_a_class_gets_the_shapes_that_it_asks_for(file):
    assert Network(name=f"{file}:build").build((1, 8, 8), 7)[1].out_features == 10
    made = Network(name=f"{file}:Net").build((3, 8, 8), 7)
    assert (made[1].in_features, made[1].out_features) == (192, 7)


def test_a_network_of_more_classes_keeps_its_outputs(file):
    assert Network(name=f"{file}:wide").checked_classes(GREY, 10) == 100
    assert Network(name=f"{file}:Net").checked_classes(GREY, 10) == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixed", "returns the same weights each time; expected a new module"),
        ("narrow", "returns 3 logits an image; the data have 10 classes"),
        ("rows", "returns \\(128,\\) for 2 images; expected rows of logits"),
        ("Tuple", "returns tuple for 2 images"),
        ("wrong_size", "fails on images of 1 x 8 x 8: RuntimeError"),
        ("needs_more", "raised TypeError"),
        ("KEPT", "expected a function or class that makes a module"),
    ],
)
def test_what_is_no_network_is_refused(file, name, message):
    with pytest.raises(ValueError, match=f"`--model`: .*{message}") as raised:
        Network(name=f"{file}:{name}").checked_classes(GREY, 10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl", "invalid choice: 'mpl' .*Did you mean 'mlp'"),
        ("net.py", "names no function .* expected net.py:FUNCTION"),
    ],
)
def test_the_form_of_a_name(name, message):
    with pytest.raises(ValueError, match=message):
        check_network_name(name)


def test_weights_are_those_of_the_file_and_change_the_checksum(file, tmp_path):
    name, weights = f"{file}:build", tmp_path / "w.pt"
    wanted = Network(name=name).build((1, 8, 8), 10)
    torch.save(wanted.state_dict(), weights)
    network = Network(name=name, weights=str(weights))
    made = network.build((1, 8, 8), 10)
    assert torch.equal(made[1].weight, wanted[1].weight)
    crc = network.crc32
    assert crc != Network(name=name).crc32
    torch.save({**wanted.state_dict(), "1.bias": torch.zeros(10)}, weights)
    assert network.crc32 != crc
    assert Network(name="mlp").crc32 is None
    with pytest.raises(ValueError, match=r"`--weights`: .*w\.pt holds no weights of mlp: it holds '1\.weight'"):
        Network(name="mlp", weights=str(weights)).build((1, 8, 8), 10)


@pytest.fixture
def libraries(monkeypatch):
    """Stands in for libraries that need not be installed: their calls as documented."""
    calls = []

    def create(name, **settings):
        calls.append((name, settings))
        channels = settings.get("in_chans", 3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, settings.get("num_classes", 10)))

    modules = {name: ModuleType(name) for name in ("timm", "torchvision", "robustbench", "robustbench.utils")}
    modules["timm"].list_models = lambda: ["resnet18", "vit_tiny"]
    modules["timm"].create_model = create
    modules["torchvision"].models = ModuleType("torchvision.models")
    modules["torchvision"].models.list_models = lambda module: ["resnet18"]
    modules["torchvision"].models.get_model = create
    modules["robustbench.utils"].load_model = create
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(networks, "find_spec", lambda name: name in modules or None)
    return calls


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("timm:resnet18", ("resnet18", {"pretrained": False, "num_classes": 10, "in_chans": 1})),
        ("torchvision:resnet18", ("resnet18", {"weights": None, "num_classes": 10})),
        ("robustbench:Carmon2019", ("Carmon2019", {"dataset": "cifar10", "threat_model": "Linf"})),
        ("robustbench:L2/Wang2023", ("Wang2023", {"dataset": "cifar10", "threat_model": "L2"})),
    ],
)
def test_networks_of_other_libraries(libraries, name, call):
    assert Network(name=name).checked_classes(GREY, 10) == 10
    assert libraries[0] == call


@pytest.mark.parametrize(
    ("name", "message"),
    [("timm:resnet81", "timm has no model 'resnet81'. Did you mean 'resnet18'"), ("torchvision:x", "has no model 'x'")],
)
def test_a_misspelt_model_of_a_library(libraries, name, message):
    with pytest.raises(ValueError, match=message):
        Network(name=name).build((3, 8, 8), 10)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="`--model` robustbench:X needs robustbench, which is not installed"):
        Network(name="robustbench:X").build((3, 8, 8), 10)
