"""Which networks are the same program? Those that differ in the values of their tensors alone."""

from __future__ import annotations

import functools
import hashlib
import types
import weakref
from collections.abc import Mapping
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from rheostat.train.dropout import RATES, LaneDropout

# Of nn.Module itself: bookkeeping, tensors and children that are compared on their own, and the mode.
OWN = frozenset(vars(nn.Module()))
HOOKS = frozenset({"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"})


def structure(model: nn.Module) -> str:
    """A fingerprint that is equal for networks which compute the same function of their weights, buffers and inputs.

    Two networks of the same shapes may still differ in anything else that a module keeps: an activation function, a
    number, a tensor that is not registered. All attributes of all modules are compared, but for the rates of
    dropout (`RATES`), which may differ from lane to lane. What cannot be compared makes a network unlike any other.
    """
    first: dict[int, str] = {}
    parts: list[Any] = []
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        tied_to = first.setdefault(id(tensor), name)
        parts.append((name, tied_to, str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad))
    for name, module in model.named_modules(remove_duplicate=False):
        first.setdefault(id(module), name)
    for name, module in model.named_modules(remove_duplicate=False):
        skipped = {"masks" if type(module) is LaneDropout else RATES.get(type(module))}
        attributes = {k: v for k, v in vars(module).items() if k not in OWN and k not in HOOKS and k not in skipped}
        hooks = [[*vars(module).get(kind, {}).values()] for kind in sorted(HOOKS)]  # their keys count all hooks ever
        kind = type_before_parametrizations(module)  # a parametrised module has a class of its own
        parts.append(
            (name, first[id(module)], _identity(kind), _comparable(attributes, first), _comparable(hooks, first))
        )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _identity(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}#{id(thing)}"


def _comparable(value: Any, names: Mapping[int, str]) -> object:
    """A text or nested tuples that are equal for equal values; weights among them count by their names."""
    if isinstance(value, weakref.ref):
        value = value()
    if isinstance(value, Tensor | nn.Module) and id(value) in names:
        return names[id(value)]
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, Mapping):
        return tuple((repr(k), _comparable(v, names)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return (type(value).__name__, tuple(_comparable(v, names) for v in value))
    if isinstance(value, functools.partial):
        return ("partial", *(_comparable(part, names) for part in (value.func, value.args, value.keywords)))
    if isinstance(value, type | types.BuiltinFunctionType):
        return repr(value)
    if isinstance(value, types.FunctionType) and value.__closure__ is None:  # made anew by every call of a builder
        defaults = _comparable((value.__defaults__, value.__kwdefaults__), names)
        return (value.__module__, value.__qualname__, id(value.__code__), defaults)
    if isinstance(value, Tensor):
        value = (str(value.dtype), tuple(value.shape), value.detach().cpu().flatten().tolist())
        return repr(value)
    try:
        return hashlib.sha256(cloudpickle.dumps(value)).hexdigest()
    except Exception:  # a foreign __reduce__ may raise anything
        return f"{type(value)} {id(value)}"
