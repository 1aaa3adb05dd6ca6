"""The state of an optimizer in a file: that of another one is refused."""

import copy
import re

import numpy as np
import pytest
import torch

from art_sensreg import TrainingConfig
from art_sensreg.training.checkpoint.folder import list_checkpoints, read_checkpoint, write_checkpoint
from art_sensreg.training.checkpoint.loading import check_live_state, check_optimizer_state
from tests.art_bridge.saved import X, Y, make, refused, same, snapshot, trained


def test_the_next_model_of_a_name_does_not_get_the_optimizer_of_the_former(tmp_path):
    trained(4).save("net", str(tmp_path))
    make(64, optimizer=None).save("net", str(tmp_path))  # wider, and without an optimizer
    classifier = make(64)
    classifier.load_weights("net", str(tmp_path))
    assert classifier.optimizer.state_dict()["state"] == {}
    classifier.fit(X, Y, nb_epochs=1, seed=0)  # fused Adam wrote past the end of the former averages
    assert np.isfinite(classifier.predict(X)).all()


def state_of(classifier):
    return classifier.optimizer.state_dict()


def altered(change, optimizer=torch.optim.Adam):
    """What is refused of a state, given the change to it."""
    classifier = trained(optimizer=optimizer)
    state = copy.deepcopy(state_of(classifier))
    change(state)
    with pytest.raises(ValueError, match=r"^The file holds|^The file has") as caught:
        check_optimizer_state(classifier.optimizer, state, "The file")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["state"][0].update(exp_avg=torch.zeros(2, 3)),
            r"'exp_avg' of parameter 0 .*\(2, 3\); expected \(4",
        ),
        (lambda s: s["state"][0].update(exp_avg=torch.tensor(0.0)), r"shape \(\); expected \(4, 3\)"),
        (lambda s: s["state"][0].update(exp_avg_sq=torch.zeros(4, 3, dtype=torch.int8)), "of torch.int8; expected"),
        (lambda s: s["state"][0].update(exp_avg_sq=torch.zeros(4, 3).half()), "of torch.float16; expected"),
        (lambda s: s["state"][0].update(exp_avg=torch.full((4, 3), torch.nan)), "with NaN values"),
        (lambda s: s["state"][0].update(exp_avg=[1.0]), r"'exp_avg/?0?' .* as float; expected a tensor"),
        (lambda s: s["state"][0].update(step=torch.tensor(torch.nan)), "'step' of parameter 0"),
        (lambda s: s["state"][0].pop("exp_avg"), "The file has no 'exp_avg' of parameter 0"),
        (lambda s: s["state"].update({99: {}}), "a state of parameter 99 of 6"),
        (lambda s: s["state"].update({0: 3}), "'state' of parameter 0 of the optimizer as int"),
        (lambda s: s["param_groups"][0]["params"].reverse(), "group 0 of its parameters is another"),
        (lambda s: s["param_groups"].append({}), "with 1 groups of parameters"),
        (lambda s: s["param_groups"][0].update(lr=float("nan")), "'lr' of group 0 of the optimizer as nan"),
        (lambda s: s["param_groups"][0].update(betas=(0.9,)), "'betas' of group 0"),
        (lambda s: s["param_groups"][0].update(betas=(0.9, "x")), "'betas' of group 0"),
        (lambda s: s["param_groups"][0].pop("eps"), "its group 0 has no 'eps'"),
        (lambda s: s.clear(), "another optimizer"),
    ],
)
def test_a_state_of_another_optimizer_is_refused(change, message):
    assert re.search(message, altered(change))


@pytest.mark.parametrize("name", ["Adafactor", "ASGD", "NAdam", "Rprop", "Adadelta", "SGD"])
def test_optimizers_with_averages_of_other_shapes_are_saved(name, tmp_path):
    if not hasattr(torch.optim, name):
        pytest.skip(f"torch {torch.__version__} has no {name}")
    classifier = trained(optimizer=getattr(torch.optim, name))
    check_optimizer_state(classifier.optimizer, state_of(classifier), "The file")
    check_live_state(classifier.optimizer)
    classifier.save("net", str(tmp_path))
    other = make(optimizer=getattr(torch.optim, name))
    other.load_weights("net", str(tmp_path))
    assert same(snapshot(other), snapshot(classifier))
    if name == "Adafactor":
        assert "row_var" in altered(lambda s: s["state"][0].update(row_var=torch.zeros(4, 2)), torch.optim.Adafactor)


def test_a_weight_replaced_after_the_optimizer_was_made(tmp_path):
    classifier = trained()
    wider = make(64)
    for name, weight in classifier.model.named_parameters():  # the same parameters with other content
        weight.data = wider.model.get_parameter(name).data
    for name in [name for name, _ in classifier.model.named_buffers()]:
        classifier.model.get_submodule(name.rpartition(".")[0]).register_buffer(
            name.rpartition(".")[2], wider.model.get_buffer(name)
        )
    before = copy.deepcopy(classifier.model.state_dict())
    message = r"`optimizer` holds 'exp_avg' of parameter 0 .* of shape \(4, 3\); expected \(64, 3\)"
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, Y, nb_epochs=1, seed=0)
    assert same(classifier.model.state_dict(), before)


def test_a_checkpoint_with_a_state_of_another_shape_is_not_resumed(tmp_path):
    config = TrainingConfig(seed=0, nb_epochs=1, ema=0.9)
    make().fit(X, Y, config=config, checkpoint_dir=str(tmp_path))
    path = list_checkpoints(tmp_path)[0]
    step, stored = read_checkpoint(path)
    changes = {
        "'exp_avg' of parameter 0": lambda tree: tree["optimizer"]["state"][0].update(exp_avg=torch.zeros(2, 2)),
        "average in the checkpoint": lambda tree: tree["stepper"]["average"].update(
            {"module.0.weight": torch.zeros(4, 3).half()}
        ),
        "holds '0.bias' with 1 NaN": lambda tree: tree["model"].update({"0.bias": torch.tensor([torch.nan, 0, 0, 0])}),
    }
    for message, change in changes.items():
        tree = copy.deepcopy(stored)
        change(tree)
        write_checkpoint(tmp_path, step, tree, keep=1)
        classifier = make()
        before = snapshot(classifier)
        with pytest.raises(ValueError, match=message):
            classifier.fit(X, Y, nb_epochs=2, config=config, checkpoint_dir=str(tmp_path), resume=True)
        assert same(snapshot(classifier), before)
    write_checkpoint(tmp_path, step, stored, keep=1)
    make().fit(X, Y, nb_epochs=2, config=config, checkpoint_dir=str(tmp_path), resume=True)


def test_another_kind_of_optimizer_is_refused(tmp_path):
    trained().save("net", str(tmp_path))
    refused(make(optimizer=torch.optim.AdamW), tmp_path, "state of another optimizer; expected one of AdamW")
