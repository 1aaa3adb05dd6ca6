"""The state of loss and penalties, and what is trained besides the model: a temperature, class centres."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.training.checkpoint.bytecode import is_installed
from art_sensreg.training.checkpoint.loading import check_model_state
from art_sensreg.training.checkpoint.plain_state import load_values, values_of
from art_sensreg.training.numerics.rollback import SavedBuffers
from art_sensreg.utils.modes import preserve_mode

_LONG = 1000

Store = dict[str, Any]


class ObjectiveState:
    """
    The tensors of an objective, and whatever else the optimizer (if any) trains, that do not belong to the model.

    They are found in a loss or penalty that is a module, and in modules and tensors that a function or object holds.
    """

    def __init__(self, objective: Objective, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        self._model = model
        self._groups = [] if optimizer is None else optimizer.param_groups
        self.roots: dict[str, nn.Module] = {}
        self._loose: dict[str, Store] = {}  # attributes of objects that are no modules
        self._alone: dict[str, nn.Parameter] = {}
        self._stateful: dict[str, Any] = {}
        self._containers: dict[str, dict[Any, Any] | list[Any] | tuple[Any, ...]] = {}
        self._seen: set[int] = set()
        for name, part in objective.parts.items():
            self._look(name, part, object_too=True)
        known = {id(tensor) for tensor in [*model.parameters(), *self.tensors().values()]}
        for number, group in enumerate(self._groups):
            for place, parameter in enumerate(group["params"]):
                if id(parameter) not in known:
                    self._alone[f"optimizer.{number}.{place}"] = parameter

    def _look(self, name: str, value: Any, object_too: bool = False) -> None:
        if isinstance(value, (list, tuple, dict)) and len(value) > _LONG:
            return  # data, and no place for modules
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, nn.Module):
            self.roots[name] = value
        elif isinstance(value, nn.Parameter):
            self._alone[name] = value
        elif isinstance(value, (list, tuple)):
            self._containers[name] = value
            for number, item in enumerate(value):
                self._look(f"{name}.{number}", item)
        elif isinstance(value, dict):
            self._containers[name] = value
            for key, item in value.items():
                self._look(f"{name}.{key}", item)
        elif isinstance(value, partial):
            given = [("function", value.func), *value.keywords.items(), *enumerate(value.args)]
            for key, item in given:
                self._look(f"{name}.{key}", item, object_too)
        elif inspect.ismethod(value):
            self._look(name, value.__self__, object_too)
        elif inspect.isfunction(value) and not is_installed(value.__module__):  # torch's own keep nothing
            used = inspect.getclosurevars(value)
            for key, item in {**used.globals, **used.nonlocals}.items():
                self._look(f"{name}.{key}", item)
        elif object_too and not isinstance(value, type) and hasattr(value, "__dict__"):
            self._look_inside(name, value)

    def _look_inside(self, name: str, value: Any) -> None:
        if not isinstance(value, FusedPenalty):  # whose settings do not change
            self._loose[name] = vars(value)
        if callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None)):
            self._stateful[name] = value
        for key, item in vars(value).items():
            if not isinstance(item, torch.Tensor):
                self._look(f"{name}.{key}", item)

    def modules(self) -> list[nn.Module]:
        """Every module once, without those of the model."""
        seen = {id(module) for module in self._model.modules()}
        found = {id(m): m for root in self.roots.values() for m in root.modules() if id(m) not in seen}
        return list(found.values())

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Inside, modules are in evaluation mode; afterwards modes and buffers are what they were."""
        modules = self.modules()
        before = SavedBuffers(self.stores())
        before.take()
        with preserve_mode(modules):
            try:
                for module in modules:
                    module.training = False
                yield
            finally:
                before.restore()

    def stores(self) -> list[Store]:
        """Where buffers are, by name: of the modules, and what objects that are no modules hold."""
        return [*(module._buffers for module in self.modules()), *self._loose.values()]

    def _places(self) -> Iterator[tuple[str, Store, str]]:
        seen = {id(module) for module in self._model.modules()}
        for root_name, root in self.roots.items():
            for name, module in root.named_modules():
                if id(module) in seen:
                    continue
                seen.add(id(module))
                for store in (module._parameters, module._buffers):
                    for key in store:
                        yield ".".join(part for part in (root_name, name, key) if part), store, key
        for name, store in self._loose.items():
            yield from ((f"{name}.{key}", store, key) for key in store)
        yield from ((name, self._alone, name) for name in self._alone)

    def attributes(self) -> list[tuple[str, dict[str, Any]]]:
        """What modules and other objects hold as plain attributes, by name, without those of the model."""
        seen = {id(module) for module in self._model.modules()}
        named = [(f"{root}.{n}" if n else root, m) for root, top in self.roots.items() for n, m in top.named_modules()]
        return [*((name, vars(m)) for name, m in named if id(m) not in seen), *self._loose.items()]

    def set_by(self, run: Callable[[], Any]) -> str | None:
        """The name of a tensor that something else puts here during `run` (a hook on the model, say), or None."""
        before = self._tensors_held()
        run()
        after = self._tensors_held()
        return next((name for name, tensor in after.items() if before.get(name) is not tensor), None)

    def _tensors_held(self) -> dict[str, torch.Tensor]:
        places = [*self.attributes(), *self._containers.items()]
        items = ((n, k, v) for n, s in places for k, v in (s.items() if isinstance(s, dict) else enumerate(s)))
        return {f"{name}.{key}": value for name, key, value in items if isinstance(value, torch.Tensor)}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors as they are now, by name."""
        models = {id(tensor) for tensor in [*self._model.parameters(), *self._model.buffers()]}
        found = {name: store[key] for name, store, key in self._places()}
        return {n: v for n, v in found.items() if isinstance(v, torch.Tensor) and id(v) not in models}

    def parameters(self) -> list[torch.Tensor]:
        """Those that can be trained."""
        return [tensor for tensor in self.tensors().values() if tensor.requires_grad and tensor.is_leaf]

    def trained(self) -> dict[str, torch.Tensor]:
        """Those that the optimizer holds, by name."""
        held = {id(parameter) for group in self._groups for parameter in group["params"]}
        return {name: tensor for name, tensor in self.tensors().items() if id(tensor) in held}

    def holder(self) -> nn.Module:
        """All of them as one module, for `DistributedDataParallel`."""
        alone = [p for p in self.parameters() if isinstance(p, nn.Parameter)]
        return nn.ModuleList([*self.roots.values(), nn.ParameterList(alone)])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, and the state of objects that have a `state_dict` of their own."""
        states = {name: value.state_dict() for name, value in self._stateful.items()}
        tensors = {name: tensor.detach() for name, tensor in self.tensors().items()}
        return {"tensors": tensors, "plain values": values_of(self.attributes()), "states": states}

    def check_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Check tensors before any is loaded: ValueError if a parameter has another shape."""
        own = self.tensors()
        for name, tensor in tensors.items():
            if name in own and own[name].requires_grad and own[name].shape != tensor.shape:
                raise ValueError(
                    f"{name!r} of the objective has shape {tuple(tensor.shape)} in the checkpoint; expected "
                    f"{tuple(own[name].shape)}."
                )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.check_tensors(state["tensors"])
        self.load_tensors(state["tensors"])
        load_values(self.attributes(), state["plain values"])
        for name, value in self._stateful.items():
            if name in state["states"]:
                value.load_state_dict(state["states"][name])

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put tensors back to earlier values: what `tensors` returned, or copies."""
        own = self.tensors()
        for name, store, key in self._places():
            if name not in tensors or name not in own:
                continue
            if own[name].shape == tensors[name].shape:
                own[name].copy_(tensors[name])
            else:  # a queue that has grown
                store[key] = tensors[name].to(own[name].device, copy=True)


class TrainedState:
    """The model and the tensors of its objective as one state: what early stopping and the guard keep and give back."""

    _MARK = "(objective) "

    def __init__(self, model: nn.Module, objective: ObjectiveState) -> None:
        self.model, self.objective = model, objective

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything by name."""
        own = {f"{self._MARK}{name}": tensor for name, tensor in self.objective.tensors().items()}
        return {**self.model.state_dict(), **own}

    def check(self, state: dict[str, torch.Tensor], where: str) -> None:
        """Check before it is loaded that the tensors of a state belong to this model and objective."""
        weights, own = self._divided(state)
        check_model_state(self.model, weights, where)
        self.objective.check_tensors(own)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        weights, own = self._divided(state)
        self.model.load_state_dict(weights)
        self.objective.load_tensors(own)

    def _divided(self, state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        mark = self._MARK
        own = {name.removeprefix(mark): tensor for name, tensor in state.items() if name.startswith(mark)}
        return {name: tensor for name, tensor in state.items() if not name.startswith(mark)}, own
