"""What the units of a network do with a batch: how large, dead, saturated, and how open their gates are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from rheostat.train.gates import Openness, gates, openness
from rheostat.train.inside import Inside, applied, copied, first_tensor, own_parameters

SATURATED = 0.95  # of the range of tanh or sigmoid, to either side of its middle
Recurrent = nn.RNNBase | nn.RNNCellBase

aten = torch.ops.aten
RECTIFIERS = (aten.relu, aten.relu_, aten.threshold, aten.threshold_)
SQUASHERS: Mapping[Any, tuple[float, float]] = {  # what brings the range to -1 ... 1: times, plus
    aten.tanh: (1.0, 0.0),
    aten.tanh_: (1.0, 0.0),
    aten.sigmoid: (2.0, -1.0),
    aten.sigmoid_: (2.0, -1.0),
}


@dataclass(frozen=True)
class Activity:
    """Of a layer and the activation behind it, on a batch; NaN or empty where there is no such thing.

    `output_rms` is the root mean square of the layer's own outputs. `dead` is the share of its rectified units that
    are zero on all of the batch, a unit of a convolution being a channel. `saturated` is the share of tanh and sigmoid
    units beyond 0.95 of their range, on average over the batch.
    """

    output_rms: float = math.nan
    dead: float = math.nan
    saturated: float = math.nan
    gates: Mapping[str, Openness] = field(default_factory=dict)


def activity(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Activity]:
    """By the names of the modules that have parameters, in the order in which they run; those that do not come last.

    An activation counts to the last layer with a matrix before it, whether it is a module or a function. The network
    is in evaluation mode for it, and a copy. Raises TaskError where it cannot be copied, or applied to these inputs.

    >>> network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    >>> network[0].weight.data = torch.tensor([[1.0], [-1.0]])
    >>> activity(network, (torch.ones(4, 1),))["0"]
    Activity(output_rms=1.0, dead=0.5, saturated=nan, gates={})
    """
    twin = copied(network).eval()
    watch = _Watch(twin)
    with torch.no_grad(), watch.inside.watched(watch.operation):
        applied(twin, inputs)
    return watch.found()


class _Layer:
    """What has been seen of one layer; on the device until the end, which is to be waited for once."""

    def __init__(self) -> None:
        self.squares: list[Tensor] = []  # means over one call
        self.alive: dict[int, Tensor] = {}  # (units,) bool, by the number of units
        self.saturated: list[Tensor] = []
        self.calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []  # of a recurrent module

    def activity(self, module: nn.Module) -> Activity:
        dead = [~units for units in self.alive.values()]
        opened: dict[str, list[Tensor]] = {}
        for inputs, named in self.calls:
            assert isinstance(module, Recurrent)
            for name, gate in gates(module, *inputs, **named).items():
                opened.setdefault(name, []).append(gate.flatten())
        return Activity(
            _mean(self.squares) ** 0.5,
            _mean([torch.cat(dead).float()]) if dead else math.nan,
            _mean(self.saturated),
            {name: openness(torch.cat(parts)) for name, parts in opened.items()},
        )


class _Watch:
    def __init__(self, network: nn.Module) -> None:
        self.inside = Inside(network, self._left)
        self._network = network
        self._names = {module: name for name, module in network.named_modules()}
        self._own = own_parameters(network)
        self._layers: dict[str, _Layer] = {}
        self._before: _Layer | None = None  # the last layer with a matrix
        self._axis = -1  # of the units in what it gave

    def _left(self, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        if isinstance(module, _ConvNd | _NormBase | nn.GroupNorm):
            self._axis = 1
        elif isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm | Recurrent):
            self._axis = -1
        name, tensor = self._names[module], first_tensor(output)
        if name not in self._own or tensor is None:
            return
        layer = self._layers.setdefault(name, _Layer())
        layer.squares.append(tensor.float().square().mean())
        if any(parameter.dim() > 1 for parameter in self._own[name].values()):
            self._before = layer
        if isinstance(module, Recurrent):
            layer.calls.append((inputs, named))
            if isinstance(module, nn.RNN | nn.RNNCell):
                rectified = "RELU" in module.mode if isinstance(module, nn.RNN) else module.nonlinearity == "relu"
                self._seen(layer, aten.relu if rectified else aten.tanh, tensor)

    def operation(self, function: Any, args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        kind = function.overloadpacket
        if kind is aten.hardtanh and args[1:2] == (0,):  # ReLU6
            kind = aten.relu
        recurrent = bool(self.inside.at_work) and isinstance(self.inside.at_work[-1], Recurrent)
        if self._before is not None and not recurrent:
            self._seen(self._before, kind, output)

    def _seen(self, layer: _Layer, kind: Any, output: Any) -> None:
        """What an activation gave; other operations are of no interest."""
        if kind in RECTIFIERS:
            units = output.movedim(self._axis, 0).flatten(1) if output.dim() > 1 else output[:, None]
            alive = (units != 0).any(1)
            layer.alive[len(alive)] = layer.alive.get(len(alive), False) | alive
        elif kind in SQUASHERS:
            times, plus = SQUASHERS[kind]
            layer.saturated.append(((output * times + plus).abs() > SATURATED).float().mean())

    def found(self) -> dict[str, Activity]:
        names = [*self._layers, *(name for name in self._own if name not in self._layers)]
        return {
            name: self._layers[name].activity(self._network.get_submodule(name)) if name in self._layers else Activity()
            for name in names
        }


def _mean(parts: list[Tensor]) -> float:
    return float(torch.stack([part.mean() for part in parts]).mean()) if parts else math.nan
