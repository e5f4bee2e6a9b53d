"""The convolutional network: the default for images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.models.layers import ACTIVATIONS, check_dropout, check_known, check_whole, weight_sd

HYPERPARAMETERS = ("layers", "channels", "kernel_size", "norm", "pooling", "residual", "dropout", "activation")

NORMS = ("none", "batch", "group")
POOLINGS = ("max", "average")
SMALLEST = 4  # pixels on the shorter side, below which nothing is pooled any more


class CNN(nn.Module):
    """`layers` convolutions in up to four stages; each stage has twice the channels of the one before it.

    Takes images (B, C, H, W) of `shape` (C, H, W), as bytes or numbers, and gives (B, outputs). `means` and
    `scales` are those of each channel in the training images. A convolution is followed by norm and activation;
    with `residual`, it is added to its input where that has its shape (He et al. 2016). Every stage but the last
    ends with pooling by 2; at the end the mean over the picture goes through dropout to a linear layer.

    Raises TaskError for a value that is not allowed.

    >>> CNN((1, 28, 28), 10, layers=4, channels=8)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        layers: int = 4,
        channels: int = 32,
        kernel_size: int = 3,
        norm: str = "batch",
        pooling: str = "max",
        residual: bool = False,
        dropout: float = 0.0,
        activation: str = "relu",
        init: float = 1.0,
        means: Sequence[float] = (),
        scales: Sequence[float] = (),
    ) -> None:
        super().__init__()
        colours, height, width = shape
        check_whole(1, outputs=outputs, layers=layers, channels=channels, kernel_size=kernel_size)
        check_known("activation", activation, ACTIVATIONS)
        check_known("norm", norm, NORMS)
        check_known("pooling", pooling, POOLINGS)
        check_dropout(dropout)
        if not 0 < init < math.inf:
            raise TaskError(f"init={init!r} must be a positive number; 1 keeps the standard weights.")
        if kernel_size % 2 == 0:
            raise TaskError(f"kernel_size={kernel_size}: give an odd number, so that pictures keep their size.")
        self.means: Tensor
        self.scales: Tensor
        self.register_buffer("means", torch.tensor([*(means or [0.0] * colours)]).view(-1, 1, 1), persistent=False)
        self.register_buffer("scales", torch.tensor([*(scales or [1.0] * colours)]).view(-1, 1, 1), persistent=False)
        stages = max(min(layers, 4, 1 + int(math.log2(max(min(height, width) / SMALLEST, 1)))), 1)
        blocks: list[nn.Module] = []
        wide = colours
        for layer in range(layers):
            stage = layer * stages // layers
            if layer and stage > (layer - 1) * stages // layers:
                blocks.append(nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2))
            blocks.append(Block(wide, channels * 2**stage, kernel_size, norm, residual, activation, init))
            wide = channels * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(wide, outputs)
        nn.init.normal_(self.output.weight, std=init * weight_sd(wide, outputs, "linear"))
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.float() - self.means) / self.scales  # (B, C, H, W)
        x = self.blocks(x)  # (B, wide, h, w)
        return self.output(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]  # (B, outputs)


class Block(nn.Module):
    """Convolution, norm and activation; (B, inputs, H, W) to (B, outputs, H, W)."""

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, norm: str, residual: bool, activation: str, init: float
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=norm == "none")
        area = kernel_size**2
        nn.init.normal_(convolution.weight, std=init * weight_sd(inputs * area, outputs * area, activation))
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        self.body = nn.Sequential(
            OrderedDict(convolution=convolution, norm=_norm(norm, outputs), activation=ACTIVATIONS[activation]())
        )
        self.residual = residual and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def _norm(norm: str, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":  # groups of about 8 channels
        return nn.GroupNorm(math.gcd(channels, max(channels // 8, 1)), channels)
    return nn.Identity()
