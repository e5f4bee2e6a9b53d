"""Parts that several families share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
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

PADDING, BEGIN, END = 0, 2, 3  # tokens, as in `data.base`
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
    """Recurrent layers that read forwards, one above the other, of one kind of cell: vanilla, gru or lstm.

    Takes (B, T, inputs) and the state of each layer (None: zeros); gives (B, T, hidden) and the states after it.
    Dropout acts between layers; with `residual`, layers from the second on add their input to their output.

    Raises TaskError for a value that is not allowed.

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
        check_whole(1, layers=layers)
        check_dropout(dropout)
        self.layers = nn.ModuleList(
            recurrent_layer(cell, hidden if number else inputs, hidden, forget_bias) for number in range(layers)
        )
        self.between, self.residual = nn.Dropout(dropout), residual

    def forward(self, x: Tensor, states: Sequence[State] | None = None) -> tuple[Tensor, list[State]]:
        after: list[State] = []
        for number, layer in enumerate(self.layers):
            inputs = self.between(x) if number else x  # (B, T, inputs or hidden)
            if states is None:
                outputs, new = layer(inputs)
            else:  # torch's states have an axis for the layers in front
                state = tuple(part.unsqueeze(0).contiguous() for part in states[number])
                outputs, new = layer(inputs, state if isinstance(layer, nn.LSTM) else state[0])
            x = outputs + x if self.residual and number else outputs
            after.append(tuple(part.squeeze(0) for part in (new if isinstance(layer, nn.LSTM) else (new,))))
        return x, after


class RecurrentEncoder(nn.Module):
    """Recurrent layers that read whole padded rows: forwards or, if `bidirectional`, each of them both ways.

    Takes (B, L, inputs) and the lengths (B,) of the rows, at least 1; gives (B, L, size): `hidden` numbers from the
    forward direction, then as many from the backward one, which begins at each row's own last place. What stands
    in the padding changes nothing before it. Dropout and `residual` as in `Recurrent`.

    Raises TaskError for a value that is not allowed.

    >>> tuple(RecurrentEncoder("gru", 8, 16)(torch.zeros(3, 5, 8), torch.tensor([5, 2, 1])).shape)
    (3, 5, 32)
    """

    def __init__(
        self,
        cell: str,
        inputs: int,
        hidden: int,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        residual: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(1, layers=layers)
        check_dropout(dropout)
        self.hidden, self.size = hidden, hidden * (2 if bidirectional else 1)
        sizes = [inputs] + [self.size] * (layers - 1)
        self.forwards = nn.ModuleList(recurrent_layer(cell, size, hidden, forget_bias) for size in sizes)
        self.backwards = nn.ModuleList(
            recurrent_layer(cell, size, hidden, forget_bias) for size in (sizes if bidirectional else [])
        )
        self.between, self.residual = nn.Dropout(dropout), residual

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device)[:, None]
        places = torch.arange(x.shape[1], device=x.device)
        turned = (lengths[:, None] - 1 - places) % x.shape[1]  # (B, L): a row backwards, its padding still behind it
        for number, forwards in enumerate(self.forwards):
            inputs = self.between(x) if number else x
            outputs = forwards(inputs)[0]
            if self.backwards:
                backwards = self.backwards[number](inputs[rows, turned])[0]
                outputs = torch.cat([outputs, backwards[rows, turned]], 2)
            x = outputs + x if self.residual and number else outputs
        return x

    def ends(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """What each direction ends with, (B, size), of its outputs (B, L, size)."""
        last = outputs[torch.arange(len(outputs), device=outputs.device), lengths - 1, : self.hidden]
        return torch.cat([last, outputs[:, 0, self.hidden :]], 1)


def recurrent_layer(cell: str, inputs: int, hidden: int, forget_bias: float) -> nn.RNN | nn.GRU | nn.LSTM:
    """One layer in one direction, (B, T, inputs) to (B, T, hidden); each gate's weights begin on their own.

    Those from the inputs are uniform (Glorot and Bengio 2010, eq. 16), those from the state orthogonal, so that it
    keeps its size over time (Saxe et al. 2014). Biases start at zero, but `forget_bias` for the forget gate of an
    LSTM (Jozefowicz et al. 2015 advise 1).
    """
    check_known("cell", cell, CELLS)
    check_whole(1, hidden=hidden)
    if not math.isfinite(forget_bias):
        raise TaskError(f"forget_bias={forget_bias!r} must be a finite number; 1 is usual.")
    layer = CELLS[cell](inputs, hidden, batch_first=True)
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
            continue
        for gate in parameter.data.split(hidden):
            (nn.init.xavier_uniform_ if name == "weight_ih_l0" else nn.init.orthogonal_)(gate)
    if isinstance(layer, nn.LSTM):  # torch orders the gates i, f, g, o
        layer.get_parameter("bias_ih_l0").data[hidden : 2 * hidden] = forget_bias
    return layer


def token_embedding(vocabulary: int, size: int, padding: int | None = None, sd: float = 0.1) -> nn.Embedding:
    """Tokens (B, L) to normal vectors (B, L, size) of `sd` on each axis; that of `padding` stays zero.

    Where the vectors are an output layer's weights too, 0.1 keeps its first scores small.
    """
    table = nn.Embedding(vocabulary, size, padding_idx=padding)
    nn.init.normal_(table.weight, std=sd)
    if padding is not None:
        table.weight.data[padding] = 0
    return table
