"""Checkpoints in files: what goes in comes out, what is damaged is found, and what was there before stays."""

import errno
import io
import json
import logging
import math
import os
import pickle
import random
import struct
import subprocess
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import lr_scheduler

from art_sensreg.training import checkpoints
from art_sensreg.training.checkpoints import (
    check_folder,
    list_checkpoints,
    pack,
    read_checkpoint,
    read_newest,
    unpack,
    write_checkpoint,
)

NAN_WITH_SIGN = struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]
SMALL = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "losses": [0.1, math.inf], 'é\x1f"\\': (b"\x00", None)}


def same(a, b):
    """Equal to the last bit, and of the same type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and same(tensor_bytes(a), tensor_bytes(b))
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(m, n) for m, n in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(m, n) for m, n in zip(a, b, strict=True))
    return a == b


def tensor_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def through_file(folder, tree):
    step, back = read_checkpoint(write_checkpoint(folder, 7, tree, keep=1))
    assert step == 7
    return back


def nested(depth):
    tree = torch.ones(1)
    for level in range(depth):
        tree = [{"in": (tree, level)}]
    return tree


WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
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


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("step", -1, ValueError), ("step", 1.5, TypeError), ("keep", 0, ValueError), ("keep", None, TypeError)],
)
def test_steps_and_keep_are_whole_numbers(tmp_path, name, value, error):
    with pytest.raises(error, match=f"`{name}`"):
        write_checkpoint(tmp_path, **{"step": 1, "tree": {}, "keep": 1, name: value})


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


def header(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def unnoticed(path, bits):
    """Those bits of the file whose flipping is not found."""
    data = path.read_bytes()
    missed = []
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ValueError as error:
            if str(path) in str(error):
                continue
        missed.append(bit)
    return missed


def test_every_flipped_bit_is_found(tmp_path):
    path = write_checkpoint(tmp_path, 7, SMALL, keep=1)
    assert unnoticed(path, range(8 * path.stat().st_size)) == []


def test_flipped_bits_in_a_file_of_all_types_are_found(tmp_path):
    tree = {str(dtype): torch.zeros(50, dtype=dtype) for dtype in WHOLE + FLOATING} | {"empty": torch.empty(0, 4)}
    path = write_checkpoint(tmp_path, 7, tree, keep=1)
    assert unnoticed(path, random.Random(1).sample(range(8 * path.stat().st_size), 4000)) == []


@pytest.mark.parametrize("tree", [SMALL, {}], ids=["tensors", "no tensors"])
def test_every_truncation_and_everything_appended_is_found(tmp_path, tree):
    path = write_checkpoint(tmp_path, 7, tree, keep=1)
    data = path.read_bytes()
    for cut in [data[:length] for length in range(len(data))] + [data + b" ", data + data, b"\x00" * len(data)]:
        path.write_bytes(cut)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint: "):
            read_checkpoint(path)


def rewritten(path, **changes):
    """The same file with other metadata, as a program of another version would write it."""
    metadata = {**header(path), **changes}
    save_file(load_file(path), path, {name: value for name, value in metadata.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, r"its version is '2', of a newer art_sensreg or damaged; expected '1'"),
        ({"version": "10"}, r"its version is '10'"),
        ({"version": None}, "no checkpoint of art_sensreg"),
        ({"format": "other"}, r"its format is 'other'; expected 'art_sensreg-checkpoint'"),
        ({"format": None}, "no checkpoint of art_sensreg"),
        ({"step": "8"}, "checksum of its metadata"),
        ({"tree": "[]"}, "checksum of its metadata"),
        ({"tensors": "{}"}, "checksum of its metadata"),
        ({"checksum": None}, "checksum of its metadata"),
        ({"more": "1"}, "checksum of its metadata"),
    ],
)
def test_other_metadata_are_refused(tmp_path, changes, message):
    path = rewritten(write_checkpoint(tmp_path, 7, SMALL, keep=1), **changes)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_the_rewritten_file_itself_is_fine(tmp_path):
    path = rewritten(write_checkpoint(tmp_path, 7, SMALL, keep=1))
    assert same(read_checkpoint(path), (7, SMALL))


@pytest.mark.parametrize("text", ['{"tensor": "x"}', '{"other": 1}', "{}", '{"tuple": 3}', "[", '{"array": "a"}'])
def test_text_of_others_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        unpack({"a": torch.ones(1)}, text)


class Trap:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["TRAP"])),)


def pickled(path):
    path.write_bytes(pickle.dumps(Trap()))


def saved_by_torch(path):
    torch.save({"trap": Trap()}, path)


def plain_weights(path):
    save_file({"weight": torch.ones(1)}, path)


@pytest.mark.parametrize("write", [pickled, saved_by_torch, plain_weights])
def test_other_files_of_that_name_are_refused_and_run_no_code(tmp_path, monkeypatch, write):
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    path = tmp_path / "checkpoint-000000001.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"checkpoint-000000001.safetensors' cannot be read as a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "trapped").exists()


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "checkpoint-000000001.safetensors")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(path.name[11:-12]) for path in list_checkpoints(folder)]


def test_the_newest_ones_are_kept_and_other_files_ignored(tmp_path):
    others = ["best.safetensors", "checkpoint-1.safetensors", "checkpoint-000000009.txt", "notes.part", "events.jsonl"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "checkpoint-000000077.safetensors.part").write_text("stale")
    for step in (0, 5, 100, 20_000, 10**9):
        write_checkpoint(tmp_path, step, {"step": step}, keep=3)
    assert steps(tmp_path) == [10**9, 20_000, 100]
    assert set(others) == set(names(tmp_path)) - {path.name for path in list_checkpoints(tmp_path)}
    path, tree = read_newest(tmp_path)
    assert (path.name, tree) == ("checkpoint-1000000000.safetensors", {"step": 10**9})


def test_the_same_step_is_replaced(tmp_path):
    for text in ("first", "second"):
        write_checkpoint(tmp_path, 3, text, keep=2)
    assert [read_checkpoint(path) for path in list_checkpoints(tmp_path)] == [(3, "second")]


def test_a_run_that_went_on_from_an_earlier_step_keeps_what_it_writes(tmp_path):
    for step in (1, 2, 9):
        write_checkpoint(tmp_path, step, step, keep=3)
    damage(tmp_path / "checkpoint-000000009.safetensors")
    for step in (3, 4):
        write_checkpoint(tmp_path, step, step, keep=1)
    assert steps(tmp_path) == [9, 4]
    assert read_newest(tmp_path)[1] == 4


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)


def test_a_damaged_one_is_reported_and_the_one_before_it_used(tmp_path, caplog):
    files = [write_checkpoint(tmp_path, step, [torch.full((2,), float(step))], keep=9) for step in (1, 2, 3, 4)]
    damage(files[3])
    files[2].write_bytes(files[2].read_bytes()[:100])
    path, tree = read_newest(tmp_path)
    assert path == files[1]
    assert same(tree, [torch.tensor([2.0, 2.0])])
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert [entry[:2] for entry in found] == [("art_sensreg.training.checkpoints", logging.WARNING)] * 2
    assert str(files[3]) in found[0][2]
    assert "the checksums of its tensors are others, so it is damaged; the one before it, " in found[0][2]
    assert "checkpoint-000000003.safetensors, is used." in found[0][2]
    assert "it is truncated" in found[1][2]


def test_what_cannot_be_opened_is_passed_over_too(tmp_path, caplog):
    write_checkpoint(tmp_path, 1, "fine", keep=2)
    (tmp_path / "checkpoint-000000002.safetensors").mkdir()
    assert read_newest(tmp_path)[1] == "fine"
    assert "checkpoint-000000002" in caplog.text


def test_all_damaged_is_an_error_naming_each(tmp_path, caplog):
    for step in (1, 2):
        damage(write_checkpoint(tmp_path, step, [torch.ones(1)], keep=2))
    with pytest.raises(ValueError, match=r"No checkpoint in .*checkpoint-000000002.*checkpoint-000000001"):
        read_newest(tmp_path)
    assert "there is none before it" in caplog.text


def test_none_at_all_is_none(tmp_path):
    (tmp_path / "checkpoint-000000001.safetensors.part").write_text("half")
    assert read_newest(tmp_path) is None
    assert list_checkpoints(tmp_path) == []
    assert read_newest(tmp_path / "missing") is None
    assert list_checkpoints(tmp_path / "missing") == []


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


class FullFile(io.BytesIO):
    """A file that takes some bytes and then no more."""

    def __init__(self, path, mode):
        super().__init__()
        Path(path).write_bytes(b"half of it")

    write = failing(errno.ENOSPC)


FAILURES = [
    ("builtins.open", failing(errno.EACCES), PermissionError),
    ("builtins.open", FullFile, OSError),
    ("os.fsync", failing(errno.EIO), OSError),
    ("os.replace", failing(errno.EROFS), OSError),
]


@pytest.mark.parametrize(("target", "fail", "kind"), FAILURES)
def test_a_failed_write_leaves_the_older_ones_and_says_so(tmp_path, monkeypatch, target, fail, kind):
    last = write_checkpoint(tmp_path, 1, SMALL, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        message = r"step 2 could not be written into '.*' \(.+\); the last good one is checkpoint-000000001.safetensors"
        with pytest.raises(kind, match=message) as caught:
            write_checkpoint(tmp_path, 2, SMALL, keep=1)
    assert type(caught.value) is kind
    assert caught.value.errno == caught.value.__cause__.errno
    assert names(tmp_path) == [last.name]
    assert same(read_newest(tmp_path), (last, SMALL))


def test_a_first_failed_write_says_that_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", FullFile)
    with pytest.raises(OSError, match=r"step 1 .*No space left on device\); there is none") as caught:
        write_checkpoint(tmp_path, 1, SMALL, keep=1)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_the_file_is_on_the_disk_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: (calls.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr("os.replace", lambda part, target: (calls.append("rename"), replace(part, target)))
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to ask for the names of files")
    path = write_checkpoint(tmp_path, 1, SMALL, keep=1)
    assert calls == [f"{path}.part", "rename", str(tmp_path)]


def test_a_folder_that_cannot_be_synchronised_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("os.open", failing(errno.EACCES))  # as on Windows
    assert read_checkpoint(write_checkpoint(tmp_path, 1, SMALL, keep=1))[0] == 1


def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, 1, SMALL, keep=1)
    assert names(tmp_path) == []


def test_a_limit_on_the_size_of_files(tmp_path):
    resource = pytest.importorskip("resource")
    write_checkpoint(tmp_path, 1, SMALL, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"step 2 .*the last good one is checkpoint-000000001") as caught:
            write_checkpoint(tmp_path, 2, torch.ones(100_000), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["checkpoint-000000001.safetensors"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk):
    last = write_checkpoint(small_disk, 1, torch.ones(5000), keep=1)
    (small_disk / "checkpoint-000000002.safetensors.part").write_bytes(b"stale" * 4000)
    with pytest.raises(OSError, match=r"step 2 .*No space left on device") as caught:
        write_checkpoint(small_disk, 2, torch.ones(20_000), keep=1)
    assert caught.value.errno == errno.ENOSPC
    assert names(small_disk) == [last.name]
    write_checkpoint(small_disk, 3, torch.ones(5000), keep=1)
    assert steps(small_disk) == [3]


@pytest.mark.parametrize(("make", "kind"), [(False, FileNotFoundError), (True, NotADirectoryError)])
def test_a_folder_that_vanished(tmp_path, make, kind):
    folder = tmp_path / "gone"
    if make:
        folder.write_text("a file in its place")
    with pytest.raises(kind, match=r"step 4 could not be written into '.*gone' \(.*\); there is none"):
        write_checkpoint(folder, 4, SMALL, keep=1)


def test_what_cannot_be_removed_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "checkpoint-000000001.safetensors").mkdir()
    write_checkpoint(tmp_path, 2, SMALL, keep=1)
    assert steps(tmp_path) == [2, 1]
    assert "checkpoint-000000001.safetensors' could not be removed" in caplog.text


def test_a_folder_is_made_and_left_empty(tmp_path):
    folder = check_folder(str(tmp_path / "runs" / "first"))
    assert folder == check_folder(folder) == tmp_path / "runs" / "first"
    assert names(folder) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_a_folder(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"`checkpoint_dir` is '.*file.*expected a folder") as caught:
        check_folder(tmp_path / "file" / below)
    assert caught.value.errno == errno.ENOTDIR
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("target", "number", "kind"),
    [
        ("pathlib.Path.mkdir", errno.EROFS, OSError),
        ("pathlib.Path.write_bytes", errno.EACCES, PermissionError),
        ("pathlib.Path.write_bytes", errno.ENOSPC, OSError),
        ("pathlib.Path.unlink", errno.EPERM, PermissionError),
    ],
)
def test_a_folder_that_takes_no_files(tmp_path, monkeypatch, target, number, kind):
    message = rf"`checkpoint_dir` is '.*', where no file can be written \({os.strerror(number)}\)"
    with monkeypatch.context() as patch:
        patch.setattr(target, failing(number))
        with pytest.raises(kind, match=message) as caught:
            check_folder(tmp_path)
    assert caught.value.errno == number


def test_nothing_is_loaded_by_pickle():
    source = Path(checkpoints.__file__).read_text()
    assert "pickle" not in source
    assert "torch.load" not in source
