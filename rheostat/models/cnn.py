"""The convolutional network: the default for images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rheostat.errors import TaskError
from rheostat.models.layers import ACTIVATIONS, check_dropout, check_known, check_whole, weight_sd

HYPERPARAMETERS = ("layers", "channels", "kernel_size", "norm", "pooling", "residual", "dropout", "activation")

NORMS = ("none", "batch", "group")
POOLINGS: Mapping[str, type[nn.MaxPool2d | nn.AvgPool2d]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
SMALLEST = 3  # pixels on the shorter side, below which no picture is pooled
MOST_STAGES = 5
GROUP = 8  # channels that group norm normalises together


class CNN(nn.Module):
    """`layers` convolutions in stages, at half the height and width and twice the `channels` of the stage before.

    Takes images (B, C, H, W) of `shape` (C, H, W), as bytes or numbers, and gives (B, outputs). `means` and
    `scales` are those of each channel in the training images. There are as many stages as layers, up to five, and
    while the picture keeps 3 pixels; `stages_of` says which layer is in which. At the end, the mean over the
    picture goes through dropout to a linear layer. `init` multiplies the standard deviation of all initial
    weights; see `layers.weight_sd`.

    Raises TaskError for a value that is not allowed.

    >>> CNN((1, 28, 28), 10, layers=4, channels=8)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        layers: int = 6,
        channels: int = 16,
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
        if len(shape) != 3:
            raise TaskError(
                f"shape={tuple(shape)} must be (channels, height, width) of a picture, such as (3, 32, 32)."
            )
        colours, height, width = shape
        check_whole(1, colours=colours, height=height, width=width, outputs=outputs)
        check_whole(1, layers=layers, channels=channels, kernel_size=kernel_size)
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
        self.register_buffer("means", _per_channel("means", means or [0.0] * colours, colours), persistent=False)
        self.register_buffer("scales", _per_channel("scales", scales or [1.0] * colours, colours), persistent=False)
        stages = stages_of(layers, height, width)
        widths = [colours, *(channels * 2**stage for stage in stages)]
        self.blocks = nn.Sequential(
            *(
                Block(
                    widths[layer],
                    widths[layer + 1],
                    kernel_size,
                    norm,
                    pooling if layer + 1 < layers and stages[layer + 1] > stage else None,
                    residual,
                    activation,
                    init,
                )
                for layer, stage in enumerate(stages)
            )
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], outputs)
        nn.init.normal_(self.output.weight, std=init * weight_sd(widths[-1], outputs, "linear"))
        nn.init.zeros_(self.output.bias)
        # The order in memory that is fastest on a CPU; whatever a convolution gives follows its weights in that.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = (x.float() - self.means) / self.scales  # (B, C, H, W)
        x = self.blocks(x)  # (B, wide, h, w)
        return self.output(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]  # (B, outputs)


class Block(nn.Module):
    """Convolution, maybe pooling by 2, norm and activation; (B, inputs, H, W) to (B, outputs, H, W), or half of H, W.

    Pooling comes before norm and activation, which then have a quarter of the work. With `residual`, the input,
    pooled alike, is added to the output where it has as many channels (He et al. 2016).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        norm: str,
        pooling: str | None,
        residual: bool,
        activation: str,
        init: float,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=norm == "none")
        area = kernel_size**2
        nn.init.normal_(convolution.weight, std=init * weight_sd(inputs * area, outputs * area, activation))
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        self.body = nn.Sequential(
            OrderedDict(
                convolution=convolution,
                pooling=nn.Identity() if pooling is None else POOLINGS[pooling](2),
                norm=_norm(norm, outputs),
                activation=ACTIVATIONS[activation](),
            )
        )
        self.residual = residual and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return self.body.pooling(x) + y if self.residual else y  # type: ignore[operator]


def stages_of(layers: int, height: int, width: int) -> list[int]:
    """The stage of each layer, from 0.

    The first stage, whose pictures are the largest, has one layer as long as others can have more.

    >>> stages_of(6, 28, 28), stages_of(3, 28, 28), stages_of(4, 5, 5)
    ([0, 1, 1, 2, 2, 3], [0, 1, 2], [0, 0, 0, 0])
    """
    side, stages = min(height, width), 1
    while stages < min(layers, MOST_STAGES) and side // 2 >= SMALLEST:
        side, stages = side // 2, stages + 1
    if stages == 1:
        return [0] * layers
    return [0, *(1 + layer * (stages - 1) // (layers - 1) for layer in range(layers - 1))]


def _per_channel(name: str, numbers: Sequence[float], colours: int) -> Tensor:
    """(C, 1, 1) float32."""
    if len(numbers) != colours or not all(map(math.isfinite, numbers)) or (name == "scales" and min(numbers) <= 0):
        least = " greater than 0" if name == "scales" else ""
        raise TaskError(f"{name}={tuple(numbers)}: give a number{least} for each of the {colours} channels.")
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def _norm(norm: str, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(channels, max(channels // GROUP, 1)), channels)
    return nn.Identity()
