"""PyTorch's optimisers without its compiler.

`torch.optim` wraps its methods so that `torch.compile` leaves them alone, and imports the compiler to say so: more
than a second in every process. Here are the same classes with the methods inside those wrappers.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

AnOptimizer = TypeVar("AnOptimizer", bound=Optimizer)


def eager(optimizer: type[AnOptimizer]) -> type[AnOptimizer]:
    """The same optimiser, computing the same."""
    bare = torch.no_grad()(inspect.unwrap(optimizer.step))  # the wrapper of `step` also switches gradients off
    step: Any = Optimizer.profile_hook_step(bare)  # runs the hooks of optimisers
    step.hooked = True
    wrapped = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in wrapped}
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})
