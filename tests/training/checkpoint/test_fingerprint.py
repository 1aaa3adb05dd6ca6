"""What `resume=True` refuses: every difference that would change the weights, and nothing else."""

import types

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing, GaussianAugmentation
from torch import nn
from torch.nn import functional

from art_sensreg import SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import NFGSM, PGD
from art_sensreg.training import Callback, ValidationAttack
from tests.training.checkpoint.helpers import Net, Ridge, Run, X, Y, one_changed, penalty


class Teacher(nn.Module):
    """A penalty that is a module."""

    weight, name = 0.1, "teacher"

    def __init__(self, scale=1.0):
        super().__init__()
        self.net = nn.Linear(4, 3)
        with torch.no_grad():
            self.net.weight.fill_(scale)

    def forward(self, model, x, y):
        return (model(x) - self.net(x).detach()).pow(2).mean()


def temperature(value):
    return lambda logits, y: functional.cross_entropy(logits / value, y)


class OtherNet(Net):
    def forward(self, x):
        return super().forward(x.flip(1))


OtherNet.__name__ = "Net"


def changed_net(**attributes):
    net = Net()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def adam(**settings):
    return lambda net: torch.optim.Adam(net.parameters(), 1e-2, **settings)


def groups(first, **settings):
    def make(net):
        named = dict(net.named_parameters())
        inside = [named[name] for name in first]
        rest = [parameter for name, parameter in named.items() if name not in first]
        return torch.optim.SGD([{"params": inside, "lr": 0.1, **settings}, {"params": rest}], lr=0.01, momentum=0.9)

    return make


def steps(kind, *args, **settings):
    return lambda optimizer: getattr(torch.optim.lr_scheduler, kind)(optimizer, *args, **settings)


def chained(milestone):
    def make(optimizer):
        parts = [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [milestone])

    return make


def hooked(net, optimizer):
    net[0].register_forward_hook(lambda module, inputs, output: output * 2)


DIFFERENCES = {
    "one image of many": ({}, {"x": one_changed(X)}, r"training data's `content`"),
    "order": ({}, {"x": X[::-1].copy(), "y": Y[::-1].copy()}, r"training data's `content`"),
    "one label": ({}, {"y": one_changed(Y)}, r"training data's `labels`"),
    "soft labels": ({}, {"y": np.eye(3)[Y] * 0.9 + 0.1 / 3}, r"training data's `labels`"),
    "validation": ({"validation": (X, Y)}, {"validation": (one_changed(X), Y)}, r"validation data's `content`"),
    "validation labels": ({"validation": (X, Y)}, {"validation": (X, one_changed(Y))}, r"validation data's `labels`"),
    "no validation": ({"validation": (X, Y)}, {}, r"validation data's `content` is .* expected none"),
    "mean": ({"preprocessing": (0.5, 1.0)}, {"preprocessing": (0.4, 1.0)}, r"`mean and std`|preprocessing's"),
    "preprocessor": (
        {"defences": FeatureSqueezing(clip_values=(0, 1), bit_depth=4, apply_fit=True)},
        {"defences": FeatureSqueezing(clip_values=(0, 1), bit_depth=5, apply_fit=True)},
        r"training data's `preprocessed`|preprocessing's `0.bit_depth` is 4",
    ),
    "noise of a preprocessor": (
        {"defences": GaussianAugmentation(sigma=0.1, augmentation=False, apply_fit=True)},
        {"defences": GaussianAugmentation(sigma=0.2, augmentation=False, apply_fit=True)},
        r"training data's `preprocessed`",
    ),
    "clip values": ({}, {"clip_values": (0.0, 2.0)}, r"training data's `clip_values`"),
    "betas": ({}, {"optimizer": adam(betas=(0.8, 0.999))}, r"optimizer's `betas` is \(0.9, 0.999\)"),
    "amsgrad": ({}, {"optimizer": adam(amsgrad=True)}, r"optimizer's `amsgrad`"),
    "momentum of one group": (
        {"optimizer": groups(["0.weight"])},
        {"optimizer": groups(["0.weight"], momentum=0.5)},
        r"optimizer's `group 0.momentum` is 0.9 in the checkpoint; expected 0.5",
    ),
    "another weight in a group": (
        {"optimizer": groups(["0.bias"])},
        {"optimizer": groups(["2.bias"])},
        r"optimizer's `group 0.params` is 1 parameters: 0.bias",
    ),
    "frozen": ({}, {"frozen": "0.weight"}, r"weight `0.weight` is .* expected .*frozen"),
    "thawed": ({"frozen": "0.weight"}, {}, r"weight `0.weight` is .*frozen"),
    "penalty's body": (
        {"penalties": [penalty(1.0)]},
        {"penalties": [penalty(2.0)]},
        r"objective `ridge` is ridge, weight 1, ridge, code 3\S+ in the checkpoint; expected ridge, weight 1, ridge",
    ),
    "penalty's attribute": ({"penalties": [Ridge(2)]}, {"penalties": [Ridge(4)]}, r"objective `ridge.power` is 2"),
    "penalty's array": (
        {"penalties": [Ridge()]},
        {"penalties": [Ridge(values=(1.0, 3.0))]},
        r"objective `ridge.values` is array",
    ),
    "penalty's weights": (
        {"penalties": [Teacher()]},
        {"penalties": [Teacher(2.0)]},
        r"objective `teacher.net.weight` is array",
    ),
    "penalty's weight": (
        {"penalties": [SensitivityPenalty()]},
        {"penalties": [SensitivityPenalty(weight=2.0)]},
        r"weight=1.0",
    ),
    "adversary": ({"adversary": PGD(eps=0.1)}, {"adversary": PGD(eps=0.2)}, r"objective `adversary` is PGD\(eps=0.1"),
    "kind of adversary": ({"adversary": PGD(eps=0.1)}, {"adversary": NFGSM(eps=0.1)}, r"`adversary` is PGD"),
    "no adversary": ({"adversary": NFGSM(eps=0.1)}, {}, r"`adversary` is NFGSM.* expected none of that name"),
    "loss": ({}, {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, r"objective `base.label_smoothing` is 0.0"),
    "class weights": (
        {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 1.0, 2.0]))},
        {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 1.0, 3.0]))},
        r"objective `base.weight` is array",
    ),
    "closure of a loss": (
        {"loss": temperature(1.0)},
        {"loss": temperature(2.0)},
        r"objective `base.value` is 1.0 .* expected 2.0",
    ),
    "dropout": (
        {"net": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1))},
        {"net": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.2))},
        r"module `1` is Dropout\(p=0.1",
    ),
    "attribute of the model": ({}, {"net": lambda: changed_net(factor=2.0)}, r"module `\(the model\).factor` is 1.0"),
    "buffer not stored": (
        {},
        {"net": lambda: changed_net(shift=torch.ones(4))},
        r"module `\(the model\).shift` is array",
    ),
    "way through the model": ({}, {"net": OtherNet}, r"module `\(the model\).forward` is forward, code"),
    "hook": ({}, {"prepare": hooked}, r"module `0.forward_hooks 0`"),
    "activation": (
        {
            "net": lambda: nn.Sequential(
                nn.Linear(4, 4),
                nn.ELU(0.5),
                nn.Linear(4, 3),
            )
        },
        {"net": lambda: nn.Sequential(nn.Linear(4, 4), nn.ELU(0.6), nn.Linear(4, 3))},
        r"module `1` is ELU\(alpha=0.5",
    ),
    "dtype": ({}, {"net": lambda: Net().double()}, r"`\(the model\).shift` is .*float32.* expected .*float64"),
    "milestones": (
        {"scheduler": steps("MultiStepLR", [1, 3])},
        {"scheduler": steps("MultiStepLR", [1, 4])},
        r"`milestones`",
    ),
    "sequence": ({"scheduler": chained(1)}, {"scheduler": chained(2)}, r"scheduler's `_milestones` is \[1\]"),
    "one cycle": (
        {"scheduler": steps("OneCycleLR", 0.1, total_steps=50)},
        {"scheduler": steps("OneCycleLR", 0.1, total_steps=50, pct_start=0.5)},
        r"scheduler's `_schedule_phases",
    ),
    "lambda": (
        {"scheduler": steps("LambdaLR", lambda epoch: 0.9**epoch)},
        {"scheduler": steps("LambdaLR", lambda epoch: 0.8**epoch)},
        r"scheduler's `lr_lambdas.0`",
    ),
    "validation attack": (
        {"validation": (X, Y), "config": {"validation_attack": ValidationAttack(eps=0.1)}},
        {"validation": (X, Y), "config": {"validation_attack": ValidationAttack(eps=0.2)}},
        r"setting `validation_attack`",
    ),
    # A default that older checkpoints lack is left out of newer ones too.
    "warm-up of an average": (
        {"config": {"ema": 0.9}},
        {"config": {"ema": 0.9, "ema_warmup": True}},
        r"setting `ema_warmup` is missing in the checkpoint; expected True",
    ),
    "length of a warm-up": (
        {"config": {"penalty_warmup": 0.5}, "penalties": [Ridge()]},
        {"config": {"penalty_warmup": 0.5}, "penalties": [Ridge()], "epochs": 2},
        r"setting `penalty_warmup` is 0.5 of 1 epochs in the checkpoint; expected 0.5 of 2",
    ),
    "warm-up of a size": (
        {"adversary": PGD(eps=0.1)},
        {"adversary": PGD(eps=0.1), "config": {"eps_warmup": 0.5}},
        r"setting `eps_warmup` is missing in the checkpoint; expected 0.5 of 1 epochs",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_every_difference_that_changes_the_weights_is_refused(name, tmp_path):
    first, second, message = DIFFERENCES[name]
    Run(**first).start(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"`resume`: checkpoint-\d+.safetensors is of another run: the .*" + message):
        Run(**second).start(tmp_path, resume=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


class Counting(Callback):
    def on_step(self, state):
        state.model.seen = getattr(state.model, "seen", 0) + 1


def reimported(name):
    """A class of a module that was read again."""
    module = types.ModuleType(name)
    code = "class Squared:\n    name = 'squared'\n    def __call__(self, model, x, y):\n        return model(x).mean()"
    exec(code, module.__dict__)
    return module.Squared()


HARMLESS = {
    "nothing": ({}, {}),
    "longer": ({}, {"epochs": 2}),
    "what is written": ({}, {"config": {"checkpoint_every": 1, "keep": 5, "callbacks": [Counting()]}}),
    "one-hot rows": ({}, {"y": np.eye(3)[Y]}),
    "float64": ({}, {"x": X.astype(np.float64)}),
    "a penalty defined again": ({"penalties": [penalty()]}, {"penalties": [penalty()]}),
    "a lambda defined again": (
        {"penalties": [lambda model, x, y: model(x).mean()]}, {"penalties": [lambda model, x, y: model(x).mean()]}),
    "a class read again": ({"penalties": [reimported("a")]}, {"penalties": [reimported("b")]}),
    "a penalty with a counter": ({"penalties": [Ridge()]}, {"penalties": [Ridge()]}),
    "a closure made again": ({"loss": temperature(1.0)}, {"loss": temperature(1.0)}),
    "a preprocessor made again": (
        {"defences": FeatureSqueezing(clip_values=(0, 1), bit_depth=4)},
        {"defences": FeatureSqueezing(clip_values=(0, 1), bit_depth=4)},
    ),
    "a scheduler made again": ({"scheduler": chained(1)}, {"scheduler": chained(1)}),
    "form of the optimizer": ({}, {"optimizer": adam(foreach=True)}),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_no_weight_is_accepted(name, tmp_path):
    first, second = HARMLESS[name]
    Run(**first).start(tmp_path)
    Run(**second).start(tmp_path, resume=True)


def test_the_same_objects_can_go_on_in_the_same_process(tmp_path):
    """Counters, running averages and rates that moved in the first part are no settings."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
    classifier = SensRegClassifier(net, nn.CrossEntropyLoss(), (4,), 3, optimizer=optimizer, device_type="cpu")
    trainer = SensRegTrainer(classifier, [Ridge()], TrainingConfig(seed=0, batch_size=75, callbacks=[Counting()]))
    for epochs in (1, 2, 3):
        trainer.fit(
            X, Y, nb_epochs=epochs, scheduler=scheduler, checkpoint_dir=tmp_path, resume=epochs > 1, verbose=False
        )
    # And a new process, with new objects, is compared with how the run began.
    Run(
        optimizer=lambda net: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9),
        scheduler=steps("OneCycleLR", 0.1, total_steps=12), penalties=[Ridge()], clip_values=None, epochs=4,
    ).start(tmp_path, resume=True)  # fmt: skip


def test_a_penalty_that_holds_the_trained_model_can_go_on(tmp_path):
    def holding(scale):
        kept = []

        def penalty(model, x, y):
            return scale * kept[0].weight.pow(2).mean()

        return {"penalties": [penalty], "prepare": lambda net, optimizer: kept.append(net[0])}

    Run(**holding(1.0)).start(tmp_path)
    Run(**holding(1.0), epochs=2).start(tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"objective `penalty.scale` is 1.0 in the checkpoint; expected 2.0"):
        Run(**holding(2.0), epochs=2).start(tmp_path, resume=True)
