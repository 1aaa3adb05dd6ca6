"""The exact worst case of a linear classifier, which no attack can beat and good ones reach."""

from __future__ import annotations

import numpy as np

from art_sensreg.attacks.base.norms import Ball
from art_sensreg.utils import check_number


def linear_margins(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, ball: Ball) -> np.ndarray:
    """
    The smallest margin `z_y - max_j z_j` of the logits `z = W u + b` over all images `u` in the ball around `x`.

    Exact up to float64, in L-inf, L2 and L1: for each other class the margin is linear in the perturbation, so that
    each coordinate moves against the sign of its slope, as far as the range of the images allows; only how far depends
    on the norm. Weight `(C, d)`, bias `(C,)`, images `(n, ...)` with d values each, class indices `(n,)`; float64
    margins `(n,)`, above 0 where no allowed perturbation changes the prediction.
    """
    weight, bias = np.asarray(weight, dtype=np.float64), np.asarray(bias, dtype=np.float64)
    labels = np.asarray(y)
    check_number("eps", ball.eps, minimum=0.0)
    images, eps = _flat_images(weight, bias, x), float(ball.eps)
    _check_labels(labels, len(images), len(weight))
    below, above = _room(images, ball)
    margins = np.full(len(images), np.inf)
    for other in range(len(weight)):
        slope = weight[labels] - weight[other]
        clean = (images * slope).sum(axis=1) + bias[labels] - bias[other]
        lost = _LOSSES[ball.norm](np.abs(slope), np.where(slope > 0, below, above), eps)
        margins = np.where(labels == other, margins, np.minimum(margins, clean - lost))
    return margins


def linear_robust_accuracy(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, ball: Ball) -> float:
    """Fraction of the images that a linear classifier assigns to their label whatever the perturbation."""
    margins = linear_margins(weight, bias, x, y, ball)
    if not len(margins):
        raise ValueError("`x` is empty; expected at least one image.")
    return float((margins > 0).mean())


def _flat_images(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    if weight.ndim != 2 or len(weight) < 2 or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"`weight` has shape {weight.shape} and `bias` {bias.shape}; expected (C, d) and (C,), two classes or more."
        )
    images = np.asarray(x, dtype=np.float64)
    if images.ndim < 2 or int(np.prod(images.shape[1:])) != weight.shape[1]:
        raise ValueError(f"`x` has shape {images.shape}; expected (n, ...) of {weight.shape[1]} values each.")
    if not np.isfinite(images).all():
        raise ValueError("`x` has NaN or infinite values; expected finite ones.")
    return images.reshape(len(images), weight.shape[1])


def _check_labels(labels: np.ndarray, n: int, classes: int) -> None:
    usable = labels.shape == (n,) and labels.dtype.kind in "iu"
    if not usable or (n and (labels.min() < 0 or labels.max() >= classes)):
        raise ValueError(
            f"`y` has shape {labels.shape} and dtype {labels.dtype}; expected {n} class indices below {classes}."
        )


def _room(images: np.ndarray, ball: Ball) -> tuple[np.ndarray, np.ndarray]:
    """How far each coordinate can fall and rise: to the end of the range, and in no norm further than eps."""
    low, high = (np.asarray(end, dtype=np.float64).reshape(-1) for end in (ball.low, ball.high))
    if (images < low).any() or (images > high).any():
        raise ValueError(
            f"`x` has values from {images.min():g} to {images.max():g}; expected them within the range of the ball, "
            f"{ball.low} to {ball.high}."
        )
    return np.minimum(images - low, ball.eps), np.minimum(high - images, ball.eps)


def _linf_loss(slope: np.ndarray, room: np.ndarray, eps: float) -> np.ndarray:
    lost: np.ndarray = (slope * room).sum(axis=1)
    return lost


def _l2_loss(slope: np.ndarray, room: np.ndarray, eps: float) -> np.ndarray:
    """
    Largest `sum slope * move` with `0 <= move <= room` and `||move|| <= eps`.

    By the optimality conditions `move = min(t * slope, room)` for some t, and the norm increases with t. With the
    coordinates sorted by the t at which each reaches the end of its range, the norm has a closed form between two such
    values, so that no search with a tolerance is needed.
    """
    room = np.where(slope > 0, room, 0.0)
    full_at = room / np.where(slope > 0, slope, 1.0)
    order = np.argsort(full_at, axis=1)
    full_at = np.take_along_axis(full_at, order, axis=1)
    sorted_slope = np.take_along_axis(slope, order, axis=1)
    full = np.cumsum(np.take_along_axis(room, order, axis=1) ** 2, axis=1)
    # Summed from the far end: a difference of two sums would lose the small slopes that come last.
    free = np.cumsum(sorted_slope[:, ::-1] ** 2, axis=1)[:, ::-1]
    free, full = np.pad(free, ((0, 0), (0, 1))), np.pad(full, ((0, 0), (1, 0)))
    count = (full[:, 1:] + full_at**2 * free[:, 1:] <= eps**2).sum(axis=1, keepdims=True)
    left, rest = (np.take_along_axis(part, count, axis=1) for part in (full, free))
    t = np.sqrt(np.maximum(eps**2 - left, 0.0) / np.where(rest > 0, rest, 1.0))
    move = np.where(rest > 0, np.minimum(t * slope, room), room)
    lost: np.ndarray = (slope * move).sum(axis=1)
    return lost


def _l1_loss(slope: np.ndarray, room: np.ndarray, eps: float) -> np.ndarray:
    """The steepest coordinates first, each as far as it can go, until eps is used up."""
    order = np.argsort(-slope, axis=1)
    room = np.take_along_axis(room, order, axis=1)
    spent_before = np.cumsum(room, axis=1) - room
    move = np.clip(eps - spent_before, 0.0, room)
    lost: np.ndarray = (np.take_along_axis(slope, order, axis=1) * move).sum(axis=1)
    return lost


_LOSSES = {"linf": _linf_loss, "l2": _l2_loss, "l1": _l1_loss}
