"""What is packed comes out the same, or is refused."""

import math
import random
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import lr_scheduler

from art_sensreg.training.checkpoint.codec import pack, unpack
from art_sensreg.training.checkpoint.folder import read_checkpoint, write_checkpoint
from tests.training.checkpoint.helpers import FLOATING, WHOLE, header, same

NAN_WITH_SIGN = struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]


def through_file(folder, tree):
    step, back = read_checkpoint(write_checkpoint(folder, 7, tree, keep=1))
    assert step == 7
    return back


def nested(depth):
    tree = torch.ones(1)
    for level in range(depth):
        tree = [{"in": (tree, level)}]
    return tree


SAME = [
    ("empty dict", {}),
    ("empty list", []),
    ("empty tuple", ()),
    ("none", None),
    ("scalars", [True, False, None, 0, 1, -1, "", "text", 'é😀\x00\n"\\/', "\ud800"]),
    ("ints", [2**62, 2**63 - 1, 2**63, -(2**63), -(2**64), 10**5000, -(10**400)]),
    ("floats", [0.1, -0.0, 0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, NAN_WITH_SIGN, 1e16]),
    ("looks like a tag", [{"tensor": "x"}, {"tuple": [1]}, {"dict": []}, {"float": "00"}, {"int": "0x1"}]),
    ("keys", {1: "int", "1": "text", 2.5: "float", None: "none", False: "bool", "": "empty", -(2**70): "big"}),
    ("inf keys", {math.inf: 1, -math.inf: 2}),
    ("order of keys", {"b": 1, "a": 2, 3: 3, 0: 4}),
    ("tuples in lists", [(1, [2, (3,)]), ((),)]),
    ("bytes", [b"", b"\x00\xff" * 5]),
    ("Counter", {"milestones": Counter({30: 2, 10: 1})}),
    ("top tensor", torch.ones(2)),
    ("zero dimensions", [torch.tensor(1.5), torch.tensor(3), torch.tensor(True)]),
    ("empty tensors", [torch.empty(0), torch.empty(0, 3), torch.empty(2, 0, dtype=torch.int64), torch.empty(0)]),
    ("same path", {1: torch.zeros(1), "1": torch.ones(1), "a/b": torch.ones(2), "a": {"b": torch.zeros(2)}}),
    ("names of the format", {"__metadata__": torch.ones(1), "": torch.ones(2), "/": torch.ones(3)}),
    ("odd names", {"é\x1f\x7f\"'\\": torch.ones(1), "\ud800": torch.ones(2), "a\nb": torch.ones(3)}),
    ("deep", nested(25)),
    ("special values", torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45])),
    *[(str(dtype), torch.randint(0, 2, (3, 5)).to(dtype)) for dtype in WHOLE],
    *[(str(dtype), torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)) for dtype in FLOATING],
    *[(f"numpy {dtype}", np.arange(6).reshape(2, 3).astype(dtype)) for dtype in ("?", "u1", "i2", "u8", ">f4", "f8")],
    ("numpy complex", np.array([1 + 2j])),
    ("numpy text", np.array(["a", "longer"])),
    ("numpy dates", np.array(["2020-01-01"], dtype="datetime64[D]")),
    ("numpy empty", [np.empty((0, 4), np.float32), np.array(2.5), np.array([], dtype=str)]),
    ("generators", {"python": random.Random(0).getstate(), "torch": torch.Generator().manual_seed(1).get_state()}),
    ("numpy generators", [np.random.RandomState(0).get_state(), np.random.default_rng(0).bit_generator.state]),
]


@pytest.mark.parametrize("tree", [tree for _, tree in SAME], ids=[name for name, _ in SAME])
def test_what_goes_in_comes_out(tmp_path, tree):
    assert same(unpack(*pack(tree)), tree)
    assert same(through_file(tmp_path, tree), tree)


CHANGED = [
    ("numpy scalars", [np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.str_("a"), np.float64(1)],
     [float(np.float32(0.1)), -3, 2**64 - 1, True, "a", 1.0]),
    ("numpy keys", {np.int64(3): 1}, {3: 1}),
    ("OrderedDict", OrderedDict(b=1, a=OrderedDict()), {"b": 1, "a": {}}),
    ("defaultdict", defaultdict(list, {3: [1]}), {3: [1]}),
    ("parameter", nn.Parameter(torch.ones(2)), torch.ones(2)),
    ("transposed", torch.arange(6.0).reshape(2, 3).T, torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])),
    ("every other", torch.arange(6)[::2], torch.tensor([0, 2, 4])),
    ("expanded", torch.ones(1).expand(3, 2), torch.ones(3, 2)),
    ("channels last", torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.ones(2, 3, 4, 5)),
    ("fortran order", np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "expected"), [case[1:] for case in CHANGED], ids=[case[0] for case in CHANGED])
def test_what_comes_out_as_something_plainer(tmp_path, tree, expected):
    back = through_file(tmp_path, tree)
    assert same(back, expected)
    assert not getattr(back, "requires_grad", False)


def test_shared_and_overlapping_tensors_come_out_apart(tmp_path):
    base = torch.arange(10.0)
    tree = {"whole": base, "again": base, "head": base[:6], "tail": base[4:], "middle": base[2:3], "one": [base]}
    back = through_file(tmp_path, tree)
    assert same(back, tree)
    back["whole"].zero_()
    assert same(back["again"], base)
    assert base[1] == 1


@pytest.mark.gpu
def test_tensors_of_a_gpu_come_back_on_the_cpu(tmp_path):
    assert same(through_file(tmp_path, {"a": torch.ones(3, device="cuda")}), {"a": torch.ones(3)})


def test_the_file_is_plain_safetensors_with_the_paths_as_names(tmp_path):
    path = write_checkpoint(tmp_path, 12, {"model": {"layer.weight": torch.ones(2)}, "best": [torch.zeros(1)]}, keep=1)
    assert path == tmp_path / "checkpoint-000000012.safetensors"
    assert sorted(load_file(path)) == ["best/0", "model/layer.weight"]
    assert {"format": "art_sensreg-checkpoint", "version": "1", "step": "12"}.items() <= header(path).items()


class Color(IntEnum):
    RED = 1


Pair = namedtuple("Pair", "a b")


REFUSED = [
    ("function", {"hooks": [len]}, r"a builtin_function_or_method at 'hooks/0'; expected tensors"),
    ("lambda", {"scheduler": {"lr_lambdas": (lambda epoch: 1,)}}, "a function at 'scheduler/lr_lambdas/0'"),
    ("object", object(), "a object at '/'"),
    ("module", [nn.Linear(1, 1)], "a Linear at '0'"),
    ("set", {"a": {1}}, "a set at 'a'"),
    ("complex", {"a": 1j}, "a complex at 'a'"),
    ("enum", [Color.RED], "a Color at '0'"),
    ("named tuple", [Pair(1, 2)], "a Pair at '0'"),
    ("dict of its own", [type("Own", (dict,), {})()], "a Own at '0'"),
    ("tuple as key", {"a": {(1, 2): 3}}, r"a tuple at 'a/\(1, 2\)'; .*keys: strings, numbers, None"),
    ("numpy objects", {"a": np.array([len])}, "a ndarray at 'a'"),
    ("numpy records", {"a": np.zeros(2, dtype=[("x", "i4")])}, "a ndarray at 'a'"),
    ("numpy date", {"a": np.datetime64("2020-01-01")}, "a datetime64 at 'a'"),
    ("masked array", {"a": np.ma.array([1], mask=[True])}, "a MaskedArray at 'a'"),
    ("complex tensor", {"a": torch.ones(1, dtype=torch.complex64)}, "tensor of torch.complex64, .* at 'a'"),
    ("sparse tensor", {"a": torch.eye(2).to_sparse()}, "tensor of torch.float32, torch.sparse_coo, .* at 'a'"),
    ("meta tensor", {"a": torch.ones(1, device="meta")}, "on meta at 'a'"),
]


@pytest.mark.parametrize(("tree", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, tree, message):
    with pytest.raises(TypeError, match=message):
        write_checkpoint(tmp_path, 1, tree, keep=1)
    assert list(tmp_path.iterdir()) == []


def sequential(optimizer):
    parts = [
        lr_scheduler.LinearLR(optimizer, total_iters=4),
        lr_scheduler.MultiStepLR(optimizer, [2, 4, 4]),
        lr_scheduler.CosineAnnealingLR(optimizer, 5),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [4, 9])


OPTIMIZERS = {
    "Adam": lambda weights: torch.optim.Adam(weights, lr=0.1, amsgrad=True),
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
}


SCHEDULERS = {
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=20),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 5, 5, 9], gamma=0.5),
    "SequentialLR": sequential,
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
}


def training(optimizer_name, scheduler_name):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    groups = [{"params": model[0].parameters()}, {"params": model[1:].parameters(), "lr": 0.02}]
    optimizer = OPTIMIZERS[optimizer_name](groups)
    return model, optimizer, SCHEDULERS[scheduler_name](optimizer)


def train(model, optimizer, scheduler, steps):
    rates = []
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(*([loss.item()] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("scheduler_name", SCHEDULERS)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_training_goes_on_identically(tmp_path, optimizer_name, scheduler_name):
    whole = training(optimizer_name, scheduler_name)
    train(*whole, range(3))
    path = write_checkpoint(tmp_path, 3, [part.state_dict() for part in whole], keep=1)
    expected = train(*whole, range(3, 16))

    resumed = training(optimizer_name, scheduler_name)
    for part, state in zip(resumed, read_checkpoint(path)[1], strict=True):
        part.load_state_dict(state)
    assert train(*resumed, range(3, 16)) == expected
    for one, other in zip(whole[:2], resumed[:2], strict=True):
        assert same(unpack(*pack(one.state_dict())), unpack(*pack(other.state_dict())))


@pytest.mark.parametrize("text", ['{"tensor": "x"}', '{"other": 1}', "{}", '{"tuple": 3}', "[", '{"array": "a"}'])
def test_text_of_others_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        unpack({"a": torch.ones(1)}, text)
