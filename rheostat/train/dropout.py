"""Dropout in lanes: each lane has its own rate, and draws its masks from its own random numbers.

The mask of a lane is drawn from the generator of its trial just as `nn.Dropout` on a CPU draws it from the global
one, so a trial drops the same units in a lane as in the plain loop, bit for bit, whoever the other lanes are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Draw:
    """One mask of a step: by which layer, and its shape and dtype in a lane."""

    layer: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Masks:
    """Where the dropout layers of a network under vmap find their masks.

    While `given` is None they only note, in the order of their calls, what they would have drawn.
    """

    given: Iterator[Tensor] | None = None
    draws: list[Draw] = field(default_factory=list)
    active: frozenset[str] = frozenset()  # layers that drop anything in any lane

    def apply(self, layer: str, x: Tensor) -> Tensor:
        if layer not in self.active:
            return x
        if self.given is None:
            self.draws.append(Draw(layer, tuple(x.shape), x.dtype))
            return x
        return x * next(self.given)


class LaneDropout(nn.Module):
    """Takes the place of an `nn.Dropout` in a network under vmap."""

    def __init__(self, layer: str, masks: Masks) -> None:
        super().__init__()
        self.layer, self.masks = layer, masks

    def forward(self, x: Tensor) -> Tensor:
        return self.masks.apply(self.layer, x) if self.training else x


def install(network: nn.Module, masks: Masks) -> None:
    """Put a LaneDropout in the place of every `nn.Dropout`."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout and name:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, LaneDropout(name, masks))


def rates(model: nn.Module) -> dict[str, float]:
    """The rate of each `nn.Dropout`, by the name of the layer."""
    found = model.named_modules(remove_duplicate=False)
    return {name: module.p for name, module in found if type(module) is nn.Dropout and name}


def draw_masks(draw: Draw, lanes: Sequence[float], generators: Sequence[torch.Generator]) -> Tensor:
    """(K, ...) zeros, and 1 / (1 - rate) where a unit is kept; `lanes` are the rates of the layer."""
    masks = torch.empty(len(lanes), *draw.shape, dtype=draw.dtype)
    for mask, rate, generator in zip(masks, lanes, generators, strict=True):
        if rate == 0:
            mask.fill_(1)
        elif rate == 1:
            mask.zero_()
        else:
            mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
    return masks
