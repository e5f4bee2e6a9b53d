"""Parts that several families share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from rheostat.errors import TaskError, unknown

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

CELLS: Mapping[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {"vanilla": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
State = tuple[Tensor, ...]  # of one layer: (h,) or, for an LSTM, (h, c), each (B, hidden)


def check_whole(least: int, **values: object) -> None:
    """Raises TaskError for anything but whole numbers from `least`."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise TaskError(f"{name}={value!r}: give a whole number from {least}.")


def check_dropout(dropout: float) -> None:
    """Raises TaskError for a share that is not at least 0 and less than 1."""
    if not 0 <= dropout < 1:
        raise TaskError(f"dropout={dropout!r} must be at least 0 and less than 1.")


def check_known(what: str, value: str, known: Mapping[str, object] | tuple[str, ...]) -> None:
    """Raises TaskError for a word that is not among the known."""
    if value not in known:
        raise TaskError(unknown(what, value, known))


def weight_sd(fan_in: int, fan_out: int, follows: str) -> float:
    """The standard deviation of a layer's initial weights, which are normal, by the activation that follows.

    - relu and its kin: sqrt(2 / fan_in), so that signals keep their size although half of them is cut away
      (He et al. 2015, eq. 10).
    - tanh: sqrt(2 / (fan_in + fan_out)), between what signals and what gradients need (Glorot and Bengio 2010,
      eq. 12); sigmoid: 4 times that, as its slope at zero is 1/4 (Bengio 2012).
    - linear, which is the output layer: sqrt(1 / fan_in); nothing is cut away.
    """
    if follows in ("tanh", "sigmoid"):
        return (4 if follows == "sigmoid" else 1) * math.sqrt(2 / (fan_in + fan_out))
    return math.sqrt((1 if follows == "linear" else 2) / fan_in)


class Recurrent(nn.Module):
    """Recurrent layers, one above the other, of one kind of cell: vanilla, gru or lstm.

    Dropout acts between layers; with `residual`, layers from the second on add their input to their output.
    Takes (B, T, inputs) and the state of each layer (None: zeros); gives (B, T, hidden) and the new states.
    `forget_bias` is what the forget gate of an LSTM is biased by at first (Jozefowicz et al. 2015 advise 1).

    >>> outputs, states = Recurrent("lstm", 8, 16, layers=2)(torch.zeros(3, 5, 8))
    >>> tuple(outputs.shape), len(states), tuple(states[0][0].shape)
    ((3, 5, 16), 2, (3, 16))
    """

    def __init__(
        self,
        cell: str,
        inputs: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        residual: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        check_known("cell", cell, CELLS)
        check_whole(1, hidden=hidden, recurrent_layers=layers)
        self.layers = nn.ModuleList(
            CELLS[cell](inputs if layer == 0 else hidden, hidden, batch_first=True) for layer in range(layers)
        )
        self.between = nn.Dropout(dropout)
        self.residual = residual
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("weight_hh"):  # orthogonal: signals keep their size over time (Saxe et al. 2014)
                    for gate in parameter.data.split(hidden):
                        nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(parameter)
                else:
                    nn.init.zeros_(parameter)
            if isinstance(layer, nn.LSTM):
                layer.bias_ih_l0.data[hidden : 2 * hidden] = forget_bias  # torch orders the gates i, f, g, o

    def forward(self, x: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        after = []
        for number, layer in enumerate(self.layers):
            inputs = self.between(x) if number else x  # (B, T, inputs or hidden)
            state = None if states is None else tuple(part.unsqueeze(0).contiguous() for part in states[number])
            outputs, new = layer(inputs, state if state is None or isinstance(layer, nn.LSTM) else state[0])
            x = outputs + x if self.residual and number else outputs
            after.append(tuple(part.squeeze(0) for part in (new if isinstance(new, tuple) else (new,))))
        return x, after
