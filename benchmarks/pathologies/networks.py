"""Four small architectures for every form of the data, in plain PyTorch, with room for faults.

A configuration may spoil them: `init` multiplies the initial matrices, `bias` is added to the biases before
activations, `frozen` leaves the first layer as it was made, `softmax` gives probabilities where scores are due.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pathologies.data import Data
from rheostat.types import Config

ARCHITECTURES = ("mlp", "cnn", "rnn", "transformer")
EMBEDDING = 16
HEADS = 2
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def build(data: Data, architecture: str, config: Config) -> nn.Module:
    """The network of a configuration, spoilt as it says."""
    kinds = {"mlp": MLP, "cnn": CNN, "rnn": Recurrent, "transformer": Transformer}
    network = kinds[architecture](data, config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and not name.startswith("embed"):
                parameter.mul_(config.get("init", 1.0))
        if shift := config.get("bias", 0.0):
            for module in network.before_activation():
                assert module.bias is not None
                module.bias.add_(shift)
    if config.get("frozen", False):
        network.first().requires_grad_(False)
    return Softmax(network) if config.get("softmax", False) else network


class Network(nn.Module):
    """`embed`, where data are tokens, then what each architecture adds, and a linear `output`."""

    def __init__(self, data: Data, config: Config) -> None:
        super().__init__()
        self.tokens = data.tokens
        shape = data.train[0].shape[1:]
        self.steps = shape[0] if len(shape) == 2 or data.tokens else 1
        self.width = EMBEDDING if data.tokens else shape[-1]  # of a step
        if data.tokens:
            self.embed = nn.Embedding(data.tokens, EMBEDDING)
        self.drop = nn.Dropout(config.get("dropout", 0.0))

    def read(self, x: Tensor) -> Tensor:
        """(B, T, E) of tokens or rows; (B, F) of a vector."""
        return self.embed(x) if self.tokens else x

    def before_activation(self) -> list[nn.Linear | nn.Conv1d | nn.Conv2d]:
        """The layers whose outputs go through the activation."""
        return []

    def first(self) -> nn.Module:
        raise NotImplementedError


class MLP(Network):
    def __init__(self, data: Data, config: Config) -> None:
        super().__init__(data, config)
        sizes = [self.steps * self.width, *[config.units] * config.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = ACTIVATIONS[config.activation]()
        self.output = nn.Linear(sizes[-1], data.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x).flatten(1)
        for layer in self.hidden:
            x = self.drop(self.activation(layer(x)))
        return self.output(x)

    def before_activation(self) -> list[nn.Linear | nn.Conv1d | nn.Conv2d]:
        return list(self.hidden)

    def first(self) -> nn.Module:
        return self.hidden[0]


class CNN(Network):
    """Pictures as one channel, in two dimensions; tokens along one."""

    def __init__(self, data: Data, config: Config) -> None:
        super().__init__(data, config)
        self.flat = bool(data.tokens)
        kind = nn.Conv1d if self.flat else nn.Conv2d
        wide = [EMBEDDING if self.flat else 1, *[config.units] * config.layers]
        self.hidden = nn.ModuleList(kind(a, b, 3, padding=1) for a, b in pairwise(wide))
        self.activation = ACTIVATIONS[config.activation]()
        self.output = nn.Linear(wide[-1] * (self.steps if self.flat else 4), data.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        x = x.transpose(1, 2) if self.flat else x[:, None]
        for layer in self.hidden:
            x = self.activation(layer(x))
            if not self.flat and min(x.shape[-2:]) > 4:
                x = F.max_pool2d(x, 2)
        x = x if self.flat else F.adaptive_avg_pool2d(x, 2)
        return self.output(self.drop(x.flatten(1)))

    def before_activation(self) -> list[nn.Linear | nn.Conv1d | nn.Conv2d]:
        return list(self.hidden)

    def first(self) -> nn.Module:
        return self.hidden[0]


class Recurrent(Network):
    """`cell` is gru, lstm or rnn (tanh); the last state is read."""

    def __init__(self, data: Data, config: Config) -> None:
        super().__init__(data, config)
        kind = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[config.cell]
        self.recurrent = kind(self.width, config.units, config.layers, batch_first=True)
        self.output = nn.Linear(config.units, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        states, _ = self.recurrent(x if x.dim() == 3 else x[:, None])
        return self.output(self.drop(states[:, -1]))

    def first(self) -> nn.Module:
        return self.recurrent


class Transformer(Network):
    """Pre-norm blocks with two heads and learnt positions; the mean over the steps is read."""

    def __init__(self, data: Data, config: Config) -> None:
        super().__init__(data, config)
        wide = config.units
        self.enter = nn.Linear(self.width, wide)
        self.positions = nn.Parameter(0.02 * torch.randn(self.steps, wide))
        self.blocks = nn.ModuleList(Block(wide, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(wide)
        self.output = nn.Linear(wide, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x)
        x = self.enter(x if x.dim() == 3 else x[:, None]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.output(self.drop(self.norm(x).mean(1)))

    def before_activation(self) -> list[nn.Linear | nn.Conv1d | nn.Conv2d]:
        return [block.up for block in self.blocks if isinstance(block, Block)]

    def first(self) -> nn.Module:
        return self.enter


class Block(nn.Module):
    def __init__(self, wide: int, config: Config) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(wide), nn.LayerNorm(wide)])
        self.attend, self.gather = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.up, self.down = nn.Linear(wide, 2 * wide), nn.Linear(2 * wide, wide)
        self.activation = ACTIVATIONS[config.activation]()
        self.drop = nn.Dropout(config.get("dropout", 0.0))

    def forward(self, x: Tensor) -> Tensor:
        b, t, e = x.shape
        q, k, v = self.attend(self.norms[0](x)).view(b, t, 3, HEADS, e // HEADS).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (e // HEADS) ** 0.5
        weights = (scores - scores.amax(-1, keepdim=True)).exp()  # torch's softmax is slow for rows this short
        seen = (weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).reshape(b, t, e)
        x = x + self.drop(self.gather(seen))
        return x + self.drop(self.down(self.activation(self.up(self.norms[1](x)))))


class Softmax(nn.Module):
    """Probabilities of a network, which the loss takes for scores."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(1)
