"""Deceptive models that the audit must find, by name: each looks more robust than it is, or hides what it computes."""

from __future__ import annotations

from tests.auditing.models import (
    planted_batches,
    planted_discrete,
    planted_gradients,
    planted_inner,
    planted_inputs,
    planted_outputs,
    planted_random,
    planted_useless,
)
from tests.auditing.models.planted_base import Planted

_MODULES = (
    planted_inputs,
    planted_discrete,
    planted_outputs,
    planted_gradients,
    planted_random,
    planted_batches,
    planted_inner,
    planted_useless,
)

PLANTED: dict[str, Planted] = {fault.name: fault for module in _MODULES for fault in module.FAULTS}
