"""Dropout in lanes: each lane has its own rate, and draws its masks from its own random numbers.

The mask of a lane is drawn from the generator of its trial just as `nn.Dropout` on a CPU draws it from the global
one, so a trial drops the same units in a lane as in the plain loop, bit for bit, whoever the other lanes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class LaneDropout(nn.Module):
    """Takes the place of an `nn.Dropout` in a network under vmap; `rates` and `generators` are those of the lanes."""

    def __init__(self, rates: Sequence[float], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.rates, self.generators = list(rates), list(generators)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not any(self.rates):
            return x
        return _Drop.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def masks(self, like: Tensor) -> Tensor:
        """(K, ...) zeros, and 1 / (1 - rate) where a unit is kept."""
        masks = torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)
        for mask, rate, generator in zip(masks, self.rates, self.generators, strict=True):
            if rate == 0:
                mask.fill_(1)
            elif rate == 1:
                mask.zero_()
            else:
                mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        return masks


class _Drop(Function):
    """Multiplies by the masks; exists for its vmap rule, which sees all lanes at once."""

    @staticmethod
    def forward(x: Tensor, dropout: LaneDropout) -> Tensor:
        raise RuntimeError("LaneDropout works under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, dropout: LaneDropout) -> tuple[Tensor, int]:
        dim = in_dims[0]
        same = dim is None  # the same values in all lanes, but not the same masks
        lanes = x.expand(info.batch_size, *x.shape) if same else x.movedim(dim, 0)
        with torch.no_grad():
            masks = dropout.masks(lanes.detach())
        return lanes * masks, 0


def install(
    template: nn.Module, models: Sequence[nn.Module], generators: Sequence[torch.Generator]
) -> list[LaneDropout]:
    """Put a LaneDropout in the place of every `nn.Dropout` of `template`, which is a copy of one of the models."""
    installed = []
    for name, module in list(template.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout and name:
            rates = [_rate(model.get_submodule(name)) for model in models]
            parent, _, child = name.rpartition(".")
            dropout = LaneDropout(rates, generators)
            setattr(template.get_submodule(parent), child, dropout)
            installed.append(dropout)
    return installed


def _rate(module: nn.Module) -> float:
    assert isinstance(module, nn.Dropout)
    return module.p
