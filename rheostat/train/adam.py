"""Adam and AdamW of PyTorch, with the bookkeeping of their fused update done once instead of in every step.

On a small network on a CPU the update itself takes a third of `torch.optim.Adam.step`; the rest collects lists
of tensors that never change, counts the steps of each parameter apart, and looks for hooks. These classes keep the
lists, count with one tensor of which each parameter's `step` is a view, and call the same kernel with the same
arguments. State and results are PyTorch's, bit for bit. Whatever is unusual (a parameter without a gradient, an
accelerator, mixed dtypes, hooks of the optimiser) goes the usual way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rheostat.train.eager import eager

if TYPE_CHECKING:
    _Base = torch.optim.Adam
else:
    _Base = object


class _Lists(NamedTuple):
    """What the kernel takes for a group."""

    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    ticks: Tensor  # (number of parameters,), of which `steps` are views


class _Direct(_Base):
    _lists: list[_Lists] | None = None

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update. The first, and any that is unusual, is PyTorch's own."""
        lists = self._lists
        if lists is None or closure is not None or self._unusual(lists):
            result = super().step(closure)
            self._lists = self._collect()
            return result
        with torch.no_grad():
            for group, (parameters, means, squares, steps, ticks) in zip(self.param_groups, lists, strict=True):
                ticks += 1
                beta1, beta2 = group["betas"]
                kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
                kernel(
                    parameters,
                    [p.grad for p in parameters],  # type: ignore[misc]
                    means,
                    squares,
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                    grad_scale=None,
                    found_inf=None,
                )
        return None

    step.hooked = True  # type: ignore[attr-defined]  # or PyTorch wraps it to look for hooks, which `_unusual` does

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._lists = None
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._lists = None
        super().add_param_group(param_group)

    def _unusual(self, lists: list[_Lists]) -> bool:
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks:
            return True
        return any(p.grad is None for group in lists for p in group.parameters)

    def _collect(self) -> list[_Lists] | None:
        """The lists of every group, after a step has made the state; None where the direct way is not open."""
        collected = []
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state.get(p, {}) for p in parameters]
            usual = group["fused"] and not (group["amsgrad"] or group["maximize"]) and all(states)
            plain = {(p.device.type, p.dtype, p.layout) for p in parameters}
            if not usual or len(plain) != 1 or next(iter(plain))[0] != "cpu":
                return None
            ticks = torch.stack([state["step"] for state in states])
            for state, step in zip(states, ticks, strict=True):
                state["step"] = step
            means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
            collected.append(_Lists(parameters, means, squares, [state["step"] for state in states], ticks))
        return collected


class Adam(_Direct, eager(torch.optim.Adam)):  # type: ignore[misc]
    """`torch.optim.Adam`."""


class AdamW(_Direct, eager(torch.optim.AdamW)):  # type: ignore[misc]
    """`torch.optim.AdamW`."""
