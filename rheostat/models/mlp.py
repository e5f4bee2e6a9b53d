"""The multilayer perceptron: the default network for rows of numbers."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.models.layers import ACTIVATIONS, check_dropout, check_known, check_whole, weight_sd

HYPERPARAMETERS = ("layers", "units", "activation", "dropout", "norm")

NORMS: Mapping[str, type[nn.Module]] = {
    "none": nn.Identity,
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


class MLP(nn.Module):
    """`layers` hidden layers of `units`, each linear -> norm -> activation -> dropout, and a linear output layer.

    Takes (B, ...) with `inputs` numbers per example, and gives (B, outputs). No hidden layer makes a linear model.
    `init` multiplies the standard deviation of all initial weights; see `layers.weight_sd`. Biases start at zero.

    Raises TaskError for a value that is not allowed.

    >>> network = MLP(inputs=64, outputs=10, layers=1, units=16)
    >>> sum(parameter.numel() for parameter in network.parameters()) == (64 + 1) * 16 + (16 + 1) * 10
    True
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int = 2,
        units: int = 128,
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
        init: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(1, inputs=inputs, outputs=outputs, units=units)
        check_whole(0, layers=layers)
        check_known("activation", activation, ACTIVATIONS)
        check_known("norm", norm, NORMS)
        check_dropout(dropout)
        if not 0 < init < math.inf:
            raise TaskError(f"init={init!r} must be a positive number; 1 keeps the standard weights.")
        widths = [inputs] + [units] * layers
        self.hidden = nn.Sequential(
            *(
                _hidden_layer(fan_in, fan_out, activation, dropout, norm)
                for fan_in, fan_out in itertools.pairwise(widths)
            )
        )
        self.output = nn.Linear(widths[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                follows = "linear" if module is self.output else activation
                nn.init.normal_(module.weight, std=init * weight_sd(module.in_features, module.out_features, follows))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x.flatten(1))  # (B, ...) -> (B, inputs) -> (B, units)
        return self.output(x)  # type: ignore[no-any-return]  # (B, outputs)


def _hidden_layer(fan_in: int, fan_out: int, activation: str, dropout: float, norm: str) -> nn.Sequential:
    """The parts keep their names whatever the settings, so that weights of two settings can be matched."""
    return nn.Sequential(
        OrderedDict(
            linear=nn.Linear(fan_in, fan_out, bias=norm != "batch"),  # batch norm takes the mean away again
            norm=NORMS[norm](fan_out),
            activation=ACTIVATIONS[activation](),
            dropout=nn.Dropout(dropout),
        )
    )
