"""Predictions and input gradients at the cost of a plain PyTorch loop, through everything that ART would call."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.art_bridge.dtypes import walk

logger = logging.getLogger(__name__)


def batched_logits(model: nn.Module, x: np.ndarray, batch_size: int, device: torch.device) -> np.ndarray:
    """What ART's `predict` returns for preprocessed images, without its `DataLoader`, which collates single images."""
    # The loader draws one number, so that a model with noise of its own sees the same noise after the same seed.
    torch.empty((), dtype=torch.int64).random_()
    outputs = []
    with torch.no_grad():
        for batch in torch.from_numpy(x).split(batch_size):
            # Copies: the first layer may work in place, and the last one may use its memory again. Contiguous, as ART's
            # loader stacks them: images that a preprocessor has transposed are rounded differently by convolutions.
            output = model(batch.to(device, copy=True, memory_format=torch.contiguous_format))[-1]
            logits = output.to("cpu", torch.float32, copy=True).numpy()
            outputs.append(logits[:, None] if logits.ndim == 1 else logits)
    return np.vstack(outputs)


def input_gradient(classifier: PyTorchClassifier, x: Any, y: Any) -> Any:
    """
    What ART's `loss_gradient` computes if all preprocessing is in torch, but with respect to the input alone.

    ART also computes the gradients of all weights, which doubles the cost, and replaces their `.grad`. If the loss does
    not depend on the input, the gradient is zero and a warning is logged.
    """
    device = classifier.device
    leaf = x.clone().detach() if isinstance(x, torch.Tensor) else torch.from_numpy(x).to(device)
    labels = y.clone().detach() if isinstance(y, torch.Tensor) else torch.tensor(y).to(device)
    # Layers that work in place may do so neither on a leaf, nor on the caller's images.
    copy = leaf.requires_grad_(True).clone()
    inputs, labels = classifier._apply_preprocessing(copy, labels, fit=False, no_grad=False)
    loss = classifier.loss(classifier._model(inputs)[-1], classifier.reduce_labels(labels))
    if loss.requires_grad:
        loss.backward(inputs=[leaf])  # into `.grad` of the leaf alone, and never into memory that others hold
    if leaf.grad is None:
        logger.warning("Autograd finds no path from `x` to the loss: the gradient is returned as zeros.")
        leaf.grad = torch.zeros_like(leaf)
    return leaf.grad if isinstance(x, torch.Tensor) else leaf.grad.to("cpu", torch.float32).numpy()


def set_training(model: nn.Module, mode: bool) -> None:
    """`model.train(mode)`, skipped if it would change nothing, which is faster to find out."""
    own_train = nn.Module.train
    for module in walk(model):
        # A module with a `train` of its own decides itself what that does.
        if module.training is not mode or type(module).train is not own_train or "train" in module.__dict__:
            model.train(mode)
            return
