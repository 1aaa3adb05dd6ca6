"""A linear classifier of colour images, and one attack of each kind."""

from functools import partial

import numpy as np
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import (
    HiddenDistanceAttack,
    KitchenSinkAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)

SHAPE, EPS = (3, 2, 2), 0.1
X = np.random.default_rng(0).random((12, *SHAPE), dtype=np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(4, 12))


def classifier_of(kind=SensRegClassifier, dtype=torch.float32, **settings):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(WEIGHT))
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", **settings}
    return kind(model.to(dtype), nn.CrossEntropyLoss(), SHAPE, 4, **settings)


Y = (X.reshape(12, 12) @ WEIGHT.T).argmax(axis=1)


def transfer(classifier, **settings):
    return TransferAttack(classifier, [classifier_of(clip_values=classifier.clip_values)], **settings)


ATTACKS = {
    "ascent": ProjectedAscent,
    "scaled": partial(ScaledLogitsAttack, scales=(1.0,)),
    "targeted": TargetedMarginAttack,
    "hidden": partial(HiddenDistanceAttack, nb_restarts=1),
    "sink": partial(KitchenSinkAttack, max_iter=10, nb_restarts=7),
    "transfer": transfer,
    "official": partial(OfficialAutoAttack, attacks=("apgd-ce", "fab-t", "square"), nb_iter=10, nb_queries=20),
}
