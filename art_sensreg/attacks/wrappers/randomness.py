"""What is measured of a random model before samples are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from art_sensreg.utils.model_rng import preserve_model

Draw = Callable[[torch.Tensor], torch.Tensor]

# Rows that are looked at in all, rows of one pass, and outputs of a row: the more, the less sharing goes unseen.
_ROWS, _ROWS_OF_A_PASS, _OUTPUTS = 1024, 64, 64
_IMAGES = 3
# The rows are dealt out to passes anew so often: one in half as many models gives a false alarm.
_SHUFFLES = 499
# Spread, by the size of the outputs, below which rows differ by rounding only.
_ROUNDING = 1e-5


@torch.inference_mode(False)
@torch.no_grad()
def rows_share_noise(draw: Draw, module: nn.Module, x: torch.Tensor, most: int | None = None) -> bool:
    """
    Tell whether the rows of one forward pass share randomness: noise on weights, one size of a random resize.

    Copies of some images run through the model in many passes. If rows are drawn independently, it does not matter
    which of them came in one pass: passes of rows that are dealt out anew look the same. Rows that share a draw make
    the mean of a pass (or, where what is shared is the size of the noise, the mean of its magnitude) vary more from
    pass to pass than in any such deal. One in 250 models of independent rows is taken for sharing, which is slower and
    no less right; so is a model in which nothing random was seen.

    :param draw: The function of a batch.
    :param module: The model inside of it; neither its statistics nor any random state are moved.
    :param x: Some inputs, `(n, ...)`, at least one.
    :param most: Rows of a pass at most.
    :return: Whether rows share randomness, or may do.

    Example:
    >>> from art_sensreg.attacks.wrappers.randomness import rows_share_noise
    >>> dropout = nn.Dropout()
    >>> rows_share_noise(dropout, dropout, torch.rand(2, 8))
    False
    >>> rows_share_noise(lambda x: x + torch.randn(8), dropout, torch.rand(2, 8))
    True
    """
    rows = _ROWS_OF_A_PASS if most is None else min(most, _ROWS_OF_A_PASS)
    if rows < 2:
        return True
    with preserve_model(module, x.device, seed=0):
        images = _probes(x, max(1, min(_IMAGES + 1, rows // 8)))
        copies = rows // len(images)
        shape = (copies, len(images), -1)
        outputs = []
        for _ in range(_ROWS // rows):
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
    """Whether the means of the passes, `(passes, rows, features)`, vary more than in any dealing out of the rows."""
    rows = features.flatten(0, 1)
    generator = torch.Generator().manual_seed(0)

    def variation(deal: torch.Tensor) -> torch.Tensor:
        variances = rows[deal].view_as(features).mean(1).square().mean(0)
        # Sharing may show in all outputs a little, or in one of them much.
        return torch.stack([variances.mean(), variances.max()])

    found = variation(torch.arange(len(rows)))
    unbeaten = torch.ones(2, dtype=torch.bool)
    for _ in range(_SHUFFLES):
        unbeaten &= found > variation(torch.randperm(len(rows), generator=generator))
        if not unbeaten.any():
            return False
    return True


def _probes(x: torch.Tensor, count: int) -> torch.Tensor:
    """Some of the images and a random one, in which no noise drowns: weights count for nothing in a black image."""
    rows = torch.linspace(0, len(x) - 1, min(len(x), max(1, count - 1))).long()
    images = x.detach()[rows.to(x.device)]
    if count == 1 or not x.is_floating_point():
        return images
    low, high = (float(value) for value in images.aminmax())
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (min(low, 0.0), max(low, 0.0))
    # On the CPU, so that the same image is looked at on every device.
    noise = torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return torch.cat([images, low + (high - low) * noise.to(images)])


@torch.inference_mode(False)
@torch.enable_grad()
def graph_bytes(draw: Draw, module: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """
    Measure what a forward pass keeps for its gradient.

    :param draw: The function of a batch.
    :param module: The model inside of it; neither its statistics nor any random state are moved.
    :param x: Some inputs, `(n, ...)`, at least one.
    :return: Bytes of a pass whatever its rows (noisy weights; not the model's own), and bytes of each row.

    Example:
    >>> from art_sensreg.attacks.wrappers.randomness import graph_bytes
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    >>> graph_bytes(model, model, torch.rand(1, 4))  # its input and the output of tanh
    (0, 48)
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    fixed, each = 0, x[:1].nbytes
    # A random model may keep more of some draws than of others: a random resize does.
    for seed in range(3):
        sizes = []
        for rows in (4, 8):
            batch = x[:1].detach().repeat(rows, *[1] * (x.ndim - 1)).requires_grad_(x.is_floating_point())
            with preserve_model(module, x.device, seed), _saved_sizes() as saved:
                draw(batch.clone())  # which may work in place
            sizes.append(sum(size for address, size in saved.items() if address not in own))
        each = max(each, (sizes[1] - sizes[0]) // 4)
        fixed = max(fixed, sizes[0] - 4 * each)
    return fixed, each


@contextmanager
def _saved_sizes() -> Iterator[dict[int, int]]:
    """Bytes of the memory that autograd keeps, by address; what several operations keep counts once."""
    sizes: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept = tensor.detach()  # an operation that kept its own output would never be freed
        if kept.layout is torch.strided:
            storage = kept.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(kept)  # no later tensor gets its address
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes
