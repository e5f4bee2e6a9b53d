"""Dropout in lanes: each lane has its own rate, and draws its masks from its own random numbers.

The mask of a lane is drawn from the generator of its trial just as `nn.Dropout` on a CPU draws it from the global
one, so a trial drops the same units in a lane as in the plain loop, bit for bit, whoever the other lanes are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Layers that drop, with the attribute that holds their rate, in which lanes may differ.
RATES: dict[type[nn.Module], str] = {nn.Dropout: "p", nn.RNN: "dropout", nn.GRU: "dropout", nn.LSTM: "dropout"}


@dataclass(frozen=True)
class Draw:
    """One mask of a step: by which layer, and what it looks like in a lane; torch draws in the order of memory."""

    layer: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Masks:
    """Where the dropout layers of a network under vmap find their masks.

    While `given` is None they draw nothing, but note in the order of their calls what they would have drawn.
    """

    given: Iterator[Tensor] | None = None
    draws: list[Draw] = field(default_factory=list)
    active: frozenset[str] = frozenset()  # layers that drop anything in any lane

    def apply(self, layer: str, x: Tensor) -> Tensor:
        if layer not in self.active:
            return x
        if self.given is None:
            self.draws.append(Draw(layer, tuple(x.shape), torch.empty_like(x).stride(), x.dtype))
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
    """The rate of every layer that drops, by name."""
    found = model.named_modules(remove_duplicate=False)
    return {name: getattr(module, RATES[type(module)]) for name, module in found if type(module) in RATES}


def draw_masks(draw: Draw, lanes: Sequence[float], generators: Sequence[torch.Generator]) -> Tensor:
    """(K, ...) zeros, and 1 / (1 - rate) where a unit is kept; `lanes` are the rates of the layer."""
    size = math.prod(draw.shape)
    masks = torch.empty_strided((len(lanes), *draw.shape), (size, *draw.strides), dtype=draw.dtype)
    for mask, rate, generator in zip(masks, lanes, generators, strict=True):
        if rate == 0:
            mask.fill_(1)
        elif rate == 1:
            mask.zero_()
        else:
            mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
    return masks
