"""Measurements of a random model before its samples are averaged: shared noise, and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from art_sensreg.utils.model_rng import preserve_model

Draw = Callable[[torch.Tensor], torch.Tensor]

# Examples in all, in one pass, and outputs of each that are compared: the more, the less sharing goes unnoticed.
_EXAMPLES, _EXAMPLES_PER_PASS, _OUTPUTS = 1024, 64, 64
_IMAGES = 3
# Permutations: about one in 250 models gives a false alarm.
_SHUFFLES = 499
# Spread, relative to the outputs, below which examples differ by rounding only.
_ROUNDING = 1e-5


@torch.inference_mode(False)
@torch.no_grad()
def examples_share_noise(draw: Draw, module: nn.Module, x: torch.Tensor, most: int | None = None) -> bool:
    """
    Whether the examples of one forward pass share randomness: noise on weights, one size of a random resize. `x` are
    some inputs, at least one; statistics of the module and all random states are left as they were.

    A permutation test. Copies of some images run through the model in many passes. If their noise is independent, it
    does not matter which of them came in one pass: passes of permuted examples look the same. Shared noise makes the
    mean of a pass (or, where it is the size of the noise that is shared, the mean of its magnitude) vary more from pass
    to pass than under any permutation. One in 250 models with independent noise is taken to share it, which is slower
    but no less correct; so is a model in which nothing random was seen.
    """
    size = _EXAMPLES_PER_PASS if most is None else min(most, _EXAMPLES_PER_PASS)
    if size < 2:
        return True
    with preserve_model(module, x.device, seed=0):
        images = _test_images(x, max(1, min(_IMAGES + 1, size // 8)))
        copies = size // len(images)
        shape = (copies, len(images), -1)
        outputs = []
        for _ in range(_EXAMPLES // size):
            values = draw(images.repeat(copies, *[1] * (x.ndim - 1))).reshape(shape)
            chosen = torch.linspace(0, values.shape[2] - 1, min(values.shape[2], _OUTPUTS)).long()
            outputs.append(values[:, :, chosen.to(values.device)].flatten(1).cpu().float())
    drawn = torch.stack(outputs)
    centred = drawn - drawn.mean((0, 1))
    centred = centred[:, :, centred.square().mean((0, 1)).sqrt() > _ROUNDING * drawn.abs().mean()]
    features = torch.cat([centred, centred.abs()], dim=2)
    features = features - features.mean((0, 1))
    spread = features.square().mean((0, 1)).sqrt()
    features = features[:, :, spread > 1e-9 * spread.max().clamp_min(1e-30)] if spread.numel() else features
    return features.numel() == 0 or _passes_differ(features / features.square().mean((0, 1)).sqrt())


def _passes_differ(features: torch.Tensor) -> bool:
    """Whether the means of the passes, `(passes, examples, features)`, vary more than under any permutation."""
    examples = features.flatten(0, 1)
    generator = torch.Generator().manual_seed(0)

    def variation(order: torch.Tensor) -> torch.Tensor:
        variances = examples[order].view_as(features).mean(1).square().mean(0)
        # Sharing may show a little in all outputs, or strongly in one of them.
        return torch.stack([variances.mean(), variances.max()])

    found = variation(torch.arange(len(examples)))
    unbeaten = torch.ones(2, dtype=torch.bool)
    for _ in range(_SHUFFLES):
        unbeaten &= found > variation(torch.randperm(len(examples), generator=generator))
        if not unbeaten.any():
            return False
    return True


def _test_images(x: torch.Tensor, count: int) -> torch.Tensor:
    """Some of the images and a random one, because noise on weights has no effect on a black image."""
    chosen = torch.linspace(0, len(x) - 1, min(len(x), max(1, count - 1))).long()
    images = x.detach()[chosen.to(x.device)]
    if count == 1 or not x.is_floating_point():
        return images
    low, high = (float(value) for value in images.aminmax())
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (min(low, 0.0), max(low, 0.0))
    # Drawn on the CPU, so that it is the same image on every device.
    noise = torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return torch.cat([images, low + (high - low) * noise.to(images)])


@torch.inference_mode(False)
@torch.enable_grad()
def graph_bytes(draw: Draw, module: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """
    What a forward pass keeps for its gradient, apart from the model's own weights: bytes regardless of its size (noisy
    weights), and bytes for each example.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    fixed, each = 0, x[:1].nbytes
    # A random model, such as a random resize, may keep more for some draws than for others.
    for seed in range(3):
        sizes = []
        for n in (4, 8):
            batch = x[:1].detach().repeat(n, *[1] * (x.ndim - 1)).requires_grad_(x.is_floating_point())
            with preserve_model(module, x.device, seed), _saved_sizes() as saved:
                draw(batch.clone())  # it may work in place
            sizes.append(sum(size for address, size in saved.items() if address not in own))
        each = max(each, (sizes[1] - sizes[0]) // 4)
        fixed = max(fixed, sizes[0] - 4 * each)
    return fixed, each


@contextmanager
def _saved_sizes() -> Iterator[dict[int, int]]:
    """Bytes that autograd keeps, by address; what several operations keep counts once."""
    sizes: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept = tensor.detach()  # an operation that kept its own output would never be freed
        if kept.layout is torch.strided:
            storage = kept.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(kept)  # so that no later tensor gets its address
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes
