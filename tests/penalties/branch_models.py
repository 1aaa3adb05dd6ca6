"""Small models that draw, couple rows, or keep state in ways of their own."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

RNG = np.random.default_rng(0)


class DropPath(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        keep = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


class Block(nn.Module):
    """A block of a vision transformer; `scale` is that of ConvNeXt's and CaiT's residual branches."""

    def __init__(self, width, p, attention=0.0, scale=1.0):
        super().__init__()
        self.norm, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=attention, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.path = DropPath(p)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x):
        normed = self.norm(x)
        x = x + self.path(self.scale * self.attention(normed, normed, normed, need_weights=False)[0])
        return x + self.path(self.scale * self.mlp(self.second(x)))


class ViT(nn.Module):
    def __init__(self, p=0.1, attention=0.0, scale=1.0, blocks=3, width=8):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.blocks = nn.Sequential(*(Block(width, p, attention, scale) for _ in range(blocks)))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x.view(len(x), -1, 4))).mean(1))


class Body(nn.Module):
    """Linear, then what a test is about, then linear."""

    def __init__(self, middle=None, width=6):
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(8, width), nn.Linear(width, 3), middle

    def inner(self, x):
        return x if self.middle is None else self.middle(x)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(self.first(x))))


class Hidden(Body):
    """A branch that the initial weights switch off."""

    def __init__(self, middle):
        super().__init__(middle)
        self.gamma = nn.Parameter(torch.zeros(6))

    def inner(self, x):
        return x + self.gamma * self.middle(x)


class FeatureMixUp(Body):
    def inner(self, x):
        if not self.training:
            return x
        share = float(np.random.beta(1.0, 1.0))
        return share * x + (1 - share) * x[torch.randperm(len(x))]


class PythonLayerDrop(Body):
    def inner(self, x):
        return x if self.training and random.random() < 0.5 else torch.relu(x)


class NumpyGlobalVariable(Body):
    def inner(self, x):
        return x + torch.as_tensor(RNG.normal(size=x.shape), dtype=x.dtype) if self.training else x


class OwnTorchGenerator(Body):
    def __init__(self):
        super().__init__()
        self.sources = [torch.Generator().manual_seed(3)]

    def inner(self, x):
        return x + torch.randn(x.shape, generator=self.sources[0]) if self.training else x


class AttentionDropout(Body):
    def inner(self, x):
        x = x.view(len(x), 1, 3, 2)
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.3 if self.training else 0.0).flatten(1)


class TimeMajorDropout(Body):
    def inner(self, x):
        return F.dropout(x.view(len(x), 2, 3).transpose(0, 1), 0.5, self.training).transpose(0, 1).flatten(1)


class ChannelNoise(Body):
    def inner(self, x):
        return x * torch.distributions.Beta(2.0, 2.0).sample((len(x), 1)) if self.training else x


DRAWING = {
    "vit": lambda: ViT(0.3),
    "vit-attention": lambda: ViT(0.0, attention=0.3),
    "layer-scale": lambda: ViT(0.3, scale=1e-6),
    "zero-gamma": lambda: Hidden(DropPath(0.5)),
    "mixup": FeatureMixUp,
    "python": PythonLayerDrop,
    "numpy-variable": NumpyGlobalVariable,
    "own-generator": OwnTorchGenerator,
    "sdpa": AttentionDropout,
    "time-major": TimeMajorDropout,
    "beta": ChannelNoise,
    "rrelu": lambda: Body(nn.RReLU()),
    "scripted": lambda: Body(torch.jit.script(DropPath(0.5))),
}


class GhostBatchNorm(nn.Module):
    def __init__(self, width, size=4):
        super().__init__()
        self.norm, self.size = nn.BatchNorm1d(width), size

    def forward(self, x):
        if not self.training:
            return self.norm(x)
        return torch.cat([self.norm(part) for part in x.chunk(-(-len(x) // self.size))])


class HandwrittenBatchNorm(nn.Module):
    def __init__(self, width, detached=False):
        super().__init__()
        self.detached = detached
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.calls = 0

    def forward(self, x):
        if not self.training:
            return (x - self.running_mean) / (self.running_var + 1e-5).sqrt()
        self.calls += 1
        source = x.detach() if self.detached else x
        mean, var = source.mean(0), source.var(0)
        with torch.no_grad():
            self.running_mean += 0.1 * (mean - self.running_mean)
            self.running_var = 0.9 * self.running_var + 0.1 * var
        return (x - mean) / (var + 1e-5).sqrt()


class TorchBatchNorm(nn.BatchNorm1d):
    """By `torch.batch_norm`, or by `torch.native_batch_norm`."""

    def __init__(self, width, native=False):
        super().__init__(width)
        self.native = native

    def forward(self, x):
        args = (x, self.weight, self.bias, self.running_mean, self.running_var, self.training, 0.1, 1e-5)
        return torch.native_batch_norm(*args)[0] if self.native else torch.batch_norm(*args, False)


class EvoNorm(nn.Module):
    """EvoNorm-B0, for one value a channel."""

    def __init__(self, width):
        super().__init__()
        self.v = nn.Parameter(torch.ones(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        var = self.running_var
        if self.training:
            var = x.var(0, unbiased=False)
            self.running_var.mul_(0.9).add_(var.detach(), alpha=0.1)
        return x / torch.maximum((var + 1e-5).sqrt(), self.v * x + (x.var(1, keepdim=True) + 1e-5).sqrt())


class BatchAttention(nn.Module):
    def forward(self, x):
        return x + torch.softmax(x @ x.T / 3, 1) @ x


class BatchRange(nn.Module):
    """Rounds to 255 levels of the range of the batch; no gradient goes that way."""

    def forward(self, x):
        step = (x.detach().max() - x.detach().min()) / 255
        return x + ((x / step).round() * step - x).detach()


class Observer(nn.Module):
    """The range of what it has seen, as quantization-aware training keeps it; inputs between 0 and 1 are in it."""

    def __init__(self, low, high):
        super().__init__()
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, x):
        if self.training:
            self.low.copy_(torch.minimum(self.low, x.detach().min()))
            self.high.copy_(torch.maximum(self.high, x.detach().max()))
        return x


class RunningInstanceNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.InstanceNorm1d(2, track_running_stats=True)

    def forward(self, x):
        return self.norm(x.view(len(x), 2, -1)).flatten(1)


class TimeMajorBatchNorm(nn.Module):
    """Rows and time steps in one dimension, the steps outermost."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width // 2)

    def forward(self, x):
        steps = x.view(len(x), 2, -1).transpose(0, 1)
        return self.norm(steps.reshape(2 * len(x), -1)).view_as(steps).transpose(0, 1).flatten(1)


class EmaOfInputs(nn.Module):
    """Watches, and changes nothing: a buffer all the same."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))

    def forward(self, x):
        if self.training:
            self.centre.lerp_(x.detach().mean(0), 0.1)
        return x


COUPLED = {
    "ghost": lambda: Body(GhostBatchNorm(6)),
    "handwritten": lambda: Body(HandwrittenBatchNorm(6)),
    "detached": lambda: Body(HandwrittenBatchNorm(6, detached=True)),
    "hidden": lambda: Hidden(HandwrittenBatchNorm(6)),
    "evonorm": lambda: Body(EvoNorm(6)),
    "scripted": lambda: Body(torch.jit.script(nn.BatchNorm1d(6))),
    "traced": lambda: Body(torch.jit.trace(nn.BatchNorm1d(6), torch.rand(5, 6), check_trace=False)),
    "attention": lambda: Body(BatchAttention()),
    "range": lambda: Body(BatchRange()),
    "observer": lambda: Body(Observer(float("inf"), float("-inf"))),
    "observed-inputs": lambda: nn.Sequential(Observer(0.0, 1.0), Body()),
    "instance": lambda: Body(RunningInstanceNorm(6)),
    "time-major": lambda: Body(TimeMajorBatchNorm(6)),
    "watching": lambda: Body(EmaOfInputs(6)),
}
KNOWN = {
    "torch.batch_norm": lambda: Body(TorchBatchNorm(6)),
    "native": lambda: Body(TorchBatchNorm(6, native=True)),
    "sync": lambda: Body(nn.SyncBatchNorm(6)),
}


class StandardisedConv(nn.Conv2d):
    """Weight standardisation by `F.batch_norm`, as timm's BiT and NFNet have it; or of another layout."""

    def __init__(self, *args, columns=False):
        super().__init__(*args)
        self.columns = columns

    def forward(self, x):
        if self.columns:
            weight = F.batch_norm(self.weight.flatten(1).t(), None, None, training=True).t()
        else:
            weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


class AdaIN(nn.Module):
    """Instance normalisation by `F.batch_norm`: the rows as channels of a single one."""

    def forward(self, x):
        flat = x.reshape(1, x.shape[0] * x.shape[1], *x.shape[2:])
        return F.batch_norm(flat, None, None, training=True).view_as(x)


def convolutional(middle, channels=4):
    return nn.Sequential(nn.Unflatten(1, (2, 2, 2)), middle, nn.GELU(), nn.Flatten(), nn.Linear(channels * 4, 3))


ALONE = {
    "bit": lambda: convolutional(StandardisedConv(2, 4, 1)),
    "columns": lambda: convolutional(StandardisedConv(2, 7, 1, columns=True), 7),
    "adain": lambda: convolutional(nn.Sequential(nn.Conv2d(2, 4, 1), AdaIN())),
}
