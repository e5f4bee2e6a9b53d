"""Recurrent layers in lanes, written as batched operations: torch has no vmap rule for its own kernels.

`install` changes the class of each recurrent module of a network under vmap, and nothing else of it: parameters,
attributes and the calls of the user's code stay what they were. Each class computes what the documentation of its
parent in torch.nn says, from all time steps of the input in one matrix product, then one per step for the state.
Between layers, lanes drop what torch's kernels on a CPU drop: these apply ordinary dropout to the outputs (T, B, D * H)
of every layer but the last, whatever `batch_first` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from rheostat.train.dropout import LaneDropout, Masks

State = tuple[Tensor, ...]  # (B, H) each: h, and c of an LSTM


class Weights(NamedTuple):
    """Of one layer in one direction."""

    ih: Tensor  # (gates * H, I)
    hh: Tensor  # (gates * H, H)
    b_ih: Tensor | None
    b_hh: Tensor | None
    hr: Tensor | None  # (P, H)


def _weights(module: nn.Module, suffix: str = "") -> Weights:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return Weights(*(getattr(module, name + suffix, None) for name in names))  # type: ignore[arg-type]


# -- one step: the input's part of the gates (B, gates * H) and the state before, to the state after ----------------


def _rnn(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, State, Weights], State]:
    def step(gates: Tensor, state: State, w: Weights) -> State:
        return (activation(gates + state[0] @ w.hh.t()),)

    return step


def _gru(gates: Tensor, state: State, w: Weights) -> State:
    """r, z = sigmoid(...), n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = n + z (h - n)."""
    (h,) = state
    size = h.shape[-1]
    rz, n = gates.split((2 * size, size), -1)
    h_rz, h_n = (h @ w.hh.t()).split((2 * size, size), -1)
    r, z = (rz + h_rz).sigmoid().chunk(2, -1)
    n = (n + r * (h_n if w.b_hh is None else h_n + w.b_hh[2 * size :])).tanh()
    return (n + z * (h - n),)


def _lstm(gates: Tensor, state: State, w: Weights) -> State:
    """c' = f c + i g, h' = o tanh(c'), projected by W_hr where there is one (arXiv:1402.1128)."""
    h, c = state
    i, f, g, o = (gates + h @ w.hh.t()).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w.hr is None else h @ w.hr.t()), c


STEPS = {"RNN_TANH": _rnn(torch.tanh), "RNN_RELU": _rnn(torch.relu), "GRU": _gru, "LSTM": _lstm}


def _gates(x: Tensor, w: Weights, mode: str) -> Tensor:
    """W_ih x and the biases, for inputs (N, I); of the biases of the state, all but b_hn, which `_gru` adds."""
    bias = w.b_ih
    if w.b_ih is not None and w.b_hh is not None:
        hidden = w.b_hh
        if mode == "GRU":
            size = w.hh.shape[-1]
            hidden = F.pad(hidden[: 2 * size], (0, size))
        bias = w.b_ih + hidden
    return F.linear(x, w.ih, bias)


# -- layers ----------------------------------------------------------------------------------------------------------


class _Layers(nn.RNNBase):
    between: LaneDropout

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Of (T, B, I), (B, T, I) if `batch_first`, or (T, I): outputs alike, and the last state (L * D, B, H)."""
        if isinstance(input, PackedSequence):
            raise NotImplementedError("recurrent layers in lanes take padded tensors, not packed sequences")
        lstm, directions = self.mode == "LSTM", 2 if self.bidirectional else 1
        batched, batch_dim = input.dim() == 3, 0 if self.batch_first else 1
        x = input if batched else input.unsqueeze(batch_dim)
        if hx is None:
            sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + lstm]
            state = tuple(x.new_zeros(self.num_layers * directions, x.shape[batch_dim], size) for size in sizes)
        else:
            state = tuple(s if batched else s.unsqueeze(1) for s in (hx if lstm else (hx,)))
        self.check_forward_args(x, state if lstm else state[0], None)  # type: ignore[arg-type]

        x = x.movedim(batch_dim, 1)  # (T, B, I)
        last: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                x = self.between(x)
            outputs = []
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
                output, end = self._direction(x, tuple(s[len(last)] for s in state), suffix)
                outputs.append(output)
                last.append(end)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        x, state = x.movedim(1, batch_dim), tuple(torch.stack(ends) for ends in zip(*last, strict=True))
        if not batched:
            x, state = x.squeeze(batch_dim), tuple(s.squeeze(1) for s in state)
        return x, state if lstm else state[0]

    def _direction(self, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
        """Of (T, B, I): the outputs (T, B, H) of a layer in one direction, and the state it ends with."""
        w, order = _weights(self, suffix), -1 if suffix.endswith("_reverse") else 1
        gates = _gates(x.flatten(0, 1), w, self.mode).unflatten(0, x.shape[:2])
        outputs = []
        for step in gates.unbind(0)[::order]:
            state = STEPS[self.mode](step, state, w)
            outputs.append(state[0])
        return torch.stack(outputs[::order]), state

    def flatten_parameters(self) -> None:
        """Nothing: that is for cuDNN."""


# -- cells -----------------------------------------------------------------------------------------------------------


class _Cell(nn.RNNCellBase):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Of (B, I) or (I,): the state after a step, (B, H) or (H,)."""
        lstm, shape = isinstance(self, nn.LSTMCell), (*input.shape[:-1], self.hidden_size)
        mode = "LSTM" if lstm else "GRU" if isinstance(self, nn.GRUCell) else f"RNN_{self.nonlinearity}".upper()
        if hx is None:
            hx = (input.new_zeros(shape),) * 2 if lstm else input.new_zeros(shape)
        state = hx if lstm else (hx,)
        if any(s.shape != shape for s in state):  # it would be broadcast
            raise RuntimeError(f"{type(self).__name__}: the state should be of shape {shape}")
        w = _weights(self)
        state = STEPS[mode](_gates(input, w, mode), state, w)
        return state if lstm else state[0]


# --------------------------------------------------------------------------------------------------------------------

LAYERS = {kind: type(f"Lane{kind.__name__}", (_Layers, kind), {}) for kind in (nn.RNN, nn.GRU, nn.LSTM)}
CELLS = {kind: type(f"Lane{kind.__name__}", (_Cell, kind), {}) for kind in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)}


def install(network: nn.Module, masks: Masks) -> None:
    """Have every recurrent module run under vmap. A user's own subclass stays as it is."""
    for name, module in list(network.named_modules()):
        if type(module) in CELLS:
            module.__class__ = CELLS[type(module)]
        elif type(module) in LAYERS:
            module.__class__ = LAYERS[type(module)]
            module.between = LaneDropout(name, masks)
