"""How open the gates of recurrent layers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rheostat.train.inside import Inside, applied, copied

SHUT, OPEN = 0.1, 0.9  # beyond which a gate is saturated, left and right (Karpathy, Johnson and Li 2015, 4.2)
GRU: Mapping[str, int] = {"reset": 0, "update": 1}  # gates, and their places in the rows of torch's weights
LSTM: Mapping[str, int] = {"input": 0, "forget": 1, "output": 3}


@dataclass(frozen=True)
class Openness:
    """Of one gate, over all units and steps: the mean, and the shares that are shut (< 0.1) and open (> 0.9)."""

    mean: float
    shut: float
    open: float


def openness(gate: Tensor) -> Openness:
    """Of the values of a gate, of any shape; NaN is left out."""
    values = gate[~gate.isnan()]
    return Openness(float(values.mean()), float((values < SHUT).float().mean()), float((values > OPEN).float().mean()))


@torch.no_grad()
def gates(module: nn.RNNBase | nn.RNNCellBase, input: Any, hx: Any = None) -> dict[str, Tensor]:
    """How open each gate is for these inputs, from 0 to 1: (B, T, hidden) of a layer, (B, hidden) of a cell.

    `input` and `hx` are what the module is called with. A GRU has the gates reset and update (one that is open
    keeps the old state, as torch defines it), an LSTM input, forget and output, a vanilla layer none. Where a module
    has several layers or directions, the end of the names of its weights stands before: `l1_reverse.forget`.
    What pads packed sequences is NaN.

    >>> {name: tuple(gate.shape) for name, gate in gates(nn.GRU(2, 5, batch_first=True), torch.zeros(3, 4, 2)).items()}
    {'reset': (3, 4, 5), 'update': (3, 4, 5)}
    """
    if isinstance(module, nn.RNNBase):
        return _of_layers(module, input, hx) if _names(module) else {}
    before = hx[0] if isinstance(hx, tuple) else hx  # of an LSTM, the gates see h alone
    if before is None:
        before = input.new_zeros(*input.shape[:-1], module.hidden_size)
    return _opened(module, input, before, _weights(module, ""))


def gates_within(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, dict[str, Tensor]]:
    """The gates (B, T, hidden) of each recurrent layer or cell of a network, by its name, for a batch of inputs.

    Layers that have none are left out; the calls of a cell are its steps. T runs in the order in which the network
    gives its inputs to the layer. The network is in evaluation mode for it, and a copy.

    Raises TaskError where it cannot be copied, or applied to these inputs.
    """
    twin = copied(network).eval()
    names = {module: name for name, module in twin.named_modules()}
    found: dict[str, dict[str, list[Tensor]]] = {}

    def left(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            for gate, opened in gates(module, *given, **named).items():
                steps = opened if isinstance(module, nn.RNNBase) else opened.reshape(-1, 1, module.hidden_size)
                found.setdefault(names[module], {}).setdefault(gate, []).append(steps)

    with torch.no_grad(), Inside(twin, left).watched():
        applied(twin, inputs)
    return {name: {gate: torch.cat(steps, 1) for gate, steps in own.items()} for name, own in found.items()}


def _of_layers(module: nn.RNNBase, inputs: Any, state: Any) -> dict[str, Tensor]:
    x, lengths = _rows(module, inputs)  # (B, T, I), (B,)
    batch, steps, _ = x.shape
    places = torch.arange(steps, device=x.device).expand(batch, steps)
    padding = (places >= lengths[:, None])[..., None]  # (B, T, 1)
    turned = (lengths[:, None] - 1 - places).remainder(steps)  # each row backwards, from its own end
    suffixes = ("", "_reverse") if module.bidirectional else ("",)
    states = _first_states(module, x, state)
    found: dict[str, Tensor] = {}
    for layer in range(module.num_layers):
        outputs = []
        for direction, suffix in enumerate(suffixes):
            order = turned if suffix else places
            weights = _weights(module, f"_l{layer}{suffix}")
            start = tuple(part[layer * len(suffixes) + direction] for part in states)  # (B, H) each
            y = _taken(x, order)
            output = _run(module, y, start, weights)  # (B, T, H)
            before = torch.cat([start[0][:, None], output[:, :-1]], 1)
            prefix = "" if module.num_layers == len(suffixes) == 1 else f"l{layer}{suffix}."
            for name, gate in _opened(module, y, before, weights).items():
                found[prefix + name] = _taken(gate, order).masked_fill(padding, torch.nan)
            outputs.append(_taken(output, order))
        x = torch.cat(outputs, 2)
    return found


def _opened(
    module: nn.RNNBase | nn.RNNCellBase, x: Tensor, before: Tensor, weights: list[Tensor | None]
) -> dict[str, Tensor]:
    """sigmoid(W_i x + b_i + W_h h + b_h) of each gate, for inputs (..., I) and the states before them (..., H)."""
    ih, hh, b_ih, b_hh, _ = weights
    assert ih is not None and hh is not None
    sums = (F.linear(x, ih, b_ih) + F.linear(before, hh, b_hh)).split(module.hidden_size, -1)
    return {name: sums[place].sigmoid() for name, place in _names(module).items()}


def _names(module: nn.RNNBase | nn.RNNCellBase) -> Mapping[str, int]:
    if isinstance(module, nn.GRU | nn.GRUCell):
        return GRU
    return LSTM if isinstance(module, nn.LSTM | nn.LSTMCell) else {}


def _weights(module: nn.Module, suffix: str) -> list[Tensor | None]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return [getattr(module, name + suffix, None) for name in names]


def _rows(module: nn.RNNBase, inputs: Any) -> tuple[Tensor, Tensor]:
    """Inputs (B, T, I), and how long each row is (B,)."""
    if isinstance(inputs, PackedSequence):
        x, lengths = pad_packed_sequence(inputs, batch_first=True)
        return x, lengths.to(x.device)
    x = inputs[None] if inputs.dim() == 2 else inputs if module.batch_first else inputs.transpose(0, 1)
    return x, torch.full((len(x),), x.shape[1], device=x.device)


def _first_states(module: nn.RNNBase, x: Tensor, state: Any) -> tuple[Tensor, ...]:
    """h (layers * directions, B, H), and c of an LSTM, as given or zeros."""
    if state is not None:
        parts = state if isinstance(state, tuple) else (state,)
        return tuple(part if part.dim() == 3 else part[:, None] for part in parts)
    sizes = (module.proj_size or module.hidden_size, module.hidden_size)[: 1 + isinstance(module, nn.LSTM)]
    count = module.num_layers * (1 + module.bidirectional)
    return tuple(x.new_zeros(count, len(x), size) for size in sizes)


def _run(module: nn.RNNBase, x: Tensor, start: tuple[Tensor, ...], weights: list[Tensor | None]) -> Tensor:
    """The outputs of one layer in one direction, without what drops between layers."""
    flat = [weight for weight in weights if weight is not None]
    states = [part[None].contiguous() for part in start]
    with torch.backends.cudnn.flags(enabled=False):  # which wants the weights of all layers in one piece
        if isinstance(module, nn.LSTM):
            return torch.lstm(x, states, flat, module.bias, 1, 0.0, False, False, True)[0]
        return torch.gru(x, states[0], flat, module.bias, 1, 0.0, False, False, True)[0]


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """x (B, T, D) with the steps of each row at `places` (B, T)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
