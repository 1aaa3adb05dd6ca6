"""
Activation checkpointing (`torch.utils.checkpoint`): the recomputation sees what the forward pass saw.

A checkpointed part of a model runs a second time in the backward pass, when the contexts of the forward pass are gone:
the rules of a stacked pass, the random states other than torch's, the choice of attention kernels. And its running
statistics would move twice. Inside of :func:`recomputed_alike` each checkpointed part gets a context for its
recomputation; re-entrant checkpoints, whose forward pass has no graph and which know no `torch.autograd.grad`, become
non-reentrant ones, with the same values and gradients.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint as torchs
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from art_sensreg.penalties.forward.batch_norm import batch_norms
from art_sensreg.penalties.forward.clean_branch import CleanBranchRules as Rules
from art_sensreg.utils.model_rng import Replay
from art_sensreg.utils.model_state import MovedState

Again = Callable[[], AbstractContextManager[Any]]
# What `checkpoint` of torch calls: the first is that of torch 2.14, the second that of versions before.
_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
_NAMES = (next((name for name in _GENERATORS if hasattr(torchs, name)), _GENERATORS[0]), "CheckpointFunction")

_current = threading.local()


class _Recomputation:
    """A context that may be entered several times: each derivative recomputes once more."""

    def __init__(self, given: AbstractContextManager[Any], again: Again) -> None:
        self._given, self._again = given, again
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(self._given)
        self._stack.enter_context(self._again())

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)


def _without_reentrant(*args: Any, **kwargs: Any) -> Any:
    original = _patch.originals[_NAMES[0]]
    begin: Callable[[], Again] | None = getattr(_current, "begin", None)
    if begin is None:
        return original(*args, **kwargs)
    call = inspect.signature(original).bind(*args, **kwargs)
    call.apply_defaults()
    context_fn, again = call.arguments["context_fn"], begin()

    def contexts() -> tuple[Any, Any]:
        forward, recomputation = context_fn()
        return forward, _Recomputation(recomputation, again)

    call.arguments.update(preserve_rng_state=True, context_fn=contexts)
    return original(*call.args, **call.kwargs)


class _Reentrant:
    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if getattr(_current, "begin", None) is None:
            return _patch.originals[_NAMES[1]].apply(function, preserve, *args)
        return torchs.checkpoint(function, *args, use_reentrant=False)


class _Patch:
    """Replaces two functions of torch while anybody is inside; threads outside do not notice it."""

    def __init__(self) -> None:
        self.originals: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._users = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if not hasattr(torchs, _NAMES[0]):
                warnings.warn(
                    f"Activation checkpointing of torch {torch.__version__} works in another way than that of the "
                    "versions that are supported: do not train models that use it.",
                    stacklevel=2,
                )
            elif self._users == 1:
                for name, replacement in zip(_NAMES, (_without_reentrant, _Reentrant), strict=True):
                    self.originals[name] = getattr(torchs, name)
                    setattr(torchs, name, replacement)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    for name, original in self.originals.items():
                        setattr(torchs, name, original)


_patch = _Patch()


@contextmanager
def recomputed_alike(begin: Callable[[], Again]) -> Iterator[None]:
    """
    Forward passes inside may be checkpointed; what they recompute later runs in contexts of the caller's.

    `begin` is called where a checkpointed part begins and returns a function that makes the context for its
    recomputation.
    """
    former = getattr(_current, "begin", None)
    with _patch.applied():
        _current.begin = begin
        try:
            yield
        finally:
            _current.begin = former


def with_graph() -> AbstractContextManager[None]:
    """To autograd, a model that is tried out or evaluated inside is as without activation checkpointing."""
    return recomputed_alike(lambda: nullcontext)


def recomputed_by(
    model: nn.Module,
    rules: Rules | None,
    sources: Sequence[Any] = (),
    moved: Sequence[tuple[nn.Module, str]] = (),
    twice: bool = False,
) -> Callable[[], Again]:
    """
    The `begin` of :func:`recomputed_alike` for a pass of a model under rules. It knows the generators other than
    torch's own that the model draws from, the buffers or attributes of modules that a pass changes beside BatchNorm's,
    and whether attention runs in the form that can be differentiated twice.
    """
    names = ("running_mean", "running_var", "num_batches_tracked")
    norms = [(norm, name) for norm in batch_norms(model) for name in names if getattr(norm, name) is not None]
    state = MovedState([*norms, *(entry for entry in moved if entry not in norms)])

    def begin(rules: Rules | None = rules) -> Again:
        frozen = None if rules is None else rules.replica()
        replay = Replay(sources) if sources else nullcontext()

        @contextmanager
        def again() -> Iterator[None]:
            own = None if frozen is None else frozen.replica()
            with ExitStack() as stack:
                stack.enter_context(state.preserved())
                stack.enter_context(replay)
                if own is not None:
                    stack.enter_context(own)
                if twice:
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.enter_context(recomputed_alike(lambda: begin(own)))
                yield

        return again

    return begin
