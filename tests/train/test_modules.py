"""Modules as people write them: each trains as lanes, equal to the plain loop, or is refused in words that help."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rheostat.train import program
from rheostat.train.lane_runner import LaneRunner
from rheostat.train.lanes import Lanes, LanesError, lane_key
from rheostat.train.loop import TaskRunner, Training
from rheostat.train.task import Task
from rheostat.types import Config, Job, Notice
from tests.train.test_lanes import _one_thread, comparable, finish  # noqa: F401 - a fixture

CLASSES = 3


def images(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 1, 8, 8, generator=generator).double(), torch.randint(CLASSES, (n,), generator=generator)


def words(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(11, (n, 6), generator=generator), torch.randint(CLASSES, (n,), generator=generator)


class Net(nn.Module):
    """Parts by name, and a function of them and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.how = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


class Block(nn.Module):
    """A residual block with a projection where the shape changes (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.Conv2d(after, after, 3, 1, 1)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.down = nn.Conv2d(before, after, 1, stride) if stride > 1 or before != after else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.one(x)))
        y = self.norm2(self.two(y))
        y += self.down(x)
        return self.relu(y)


def resnet() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Block(4, 4, 1), Block(4, 6, 2), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(6, CLASSES))


def unet() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        high = m.down1(x).relu()
        low = m.down2(F.max_pool2d(high, 2)).relu()
        up = torch.cat([m.up(low), high], 1)
        return m.head(up).mean((2, 3))

    return Net(
        forward,
        down1=nn.Conv2d(1, 4, 3, padding=1),
        down2=nn.Conv2d(4, 8, 3, padding=1),
        up=nn.ConvTranspose2d(8, 4, 2, stride=2),
        head=nn.Conv2d(8, CLASSES, 1),
    )


def densenet() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        for layer in m.layers:
            x = torch.cat([x, layer(x)], 1)
        return m.head(x.mean((2, 3)))

    layers = nn.ModuleList(
        nn.Sequential(nn.BatchNorm2d(1 + 3 * i), nn.ReLU(), nn.Conv2d(1 + 3 * i, 3, 3, padding=1)) for i in range(3)
    )
    return Net(forward, layers=layers, head=nn.Linear(10, CLASSES))


def mobilenet() -> nn.Module:
    """Depthwise separable convolutions, and squeeze and excitation."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.wide(x)
        x = F.hardswish(m.depthwise(x))
        return m.head((x * m.excite(x.mean((2, 3)))[..., None, None]).mean((2, 3)))

    excite = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 6), nn.Sigmoid())
    return Net(
        forward,
        wide=nn.Conv2d(1, 6, 1),
        depthwise=nn.Conv2d(6, 6, 3, padding=1, groups=6),
        excite=excite,
        head=nn.Linear(6, CLASSES),
    )


def mixer() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patches(x).flatten(2).transpose(1, 2)  # (B, 16, 6)
        x = x + m.tokens(m.norm1(x).transpose(1, 2)).transpose(1, 2)
        return m.head((x + m.channels(m.norm2(x))).mean(1))

    return Net(
        forward,
        patches=nn.Conv2d(1, 6, 2, 2),
        norm1=nn.LayerNorm(6),
        norm2=nn.LayerNorm(6),
        tokens=nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16)),
        channels=nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)),
        head=nn.Linear(6, CLASSES),
    )


def vit(dropout: float = 0.0) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([m.token.expand(len(x), -1, -1), x], 1) + m.place
        return m.head(m.body(x)[:, 0])

    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True, norm_first=True)
    return Net(
        forward,
        patches=nn.Conv2d(1, 8, 4, 4),
        token=nn.Parameter(torch.zeros(1, 1, 8)),
        place=nn.Parameter(torch.randn(1, 5, 8) / 10),
        body=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        head=nn.Linear(8, CLASSES),
    )


def gpt() -> nn.Module:
    """Causal attention over heads, and an output layer tied to the embedding; judged by three words."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.embed.weight[x]
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in m.qkv(m.norm(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + m.out(attended.transpose(1, 2).flatten(2))
        return (x[:, -1] @ m.embed.weight.t())[:, :CLASSES]

    return Net(forward, embed=nn.Embedding(11, 8), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), norm=nn.LayerNorm(8))


def masked_transformer() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        padding = x == 0
        y = m.body(m.embed(x), src_key_padding_mask=padding)
        return m.head((y * ~padding[..., None]).sum(1) / (~padding).sum(1, keepdim=True).clamp(min=1))

    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return Net(forward, embed=nn.Embedding(11, 8), body=body, head=nn.Linear(8, CLASSES))


def experts() -> nn.Module:
    """The two best of four experts, weighed (all are computed)."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x.flatten(1)
        weight, index = m.gate(x).softmax(-1).topk(2, -1)
        every = torch.stack([expert(x) for expert in m.experts], 1)
        chosen = every.gather(1, index[..., None].expand(-1, -1, CLASSES))
        return (weight[..., None] * chosen).sum(1)

    return Net(forward, gate=nn.Linear(64, 4), experts=nn.ModuleList(nn.Linear(64, CLASSES) for _ in range(4)))


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient


class SquaredWithRule(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient


def linear(between: Callable[[Any, Tensor], Tensor], **parts: Any) -> nn.Module:
    """Something between two linear layers."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.two(between(m, m.one(x.flatten(1))))

    return Net(forward, one=nn.Linear(64, 6), two=nn.Linear(6, CLASSES), **parts)


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    body = kind(5, 6, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True)
    return Net(
        lambda m, x: m.head(m.body(m.embed(x))[0].mean(1)),
        embed=nn.Embedding(11, 5),
        body=body,
        head=nn.Linear(12, CLASSES),
    )


def packed() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        lengths = (x > 0).sum(1).clamp(min=1).cpu()
        sequence = nn.utils.rnn.pack_padded_sequence(m.embed(x), lengths, batch_first=True, enforce_sorted=False)
        return m.head(m.body(sequence)[1][-1])

    return Net(forward, embed=nn.Embedding(11, 5), body=nn.GRU(5, 6), head=nn.Linear(6, CLASSES))


class Warming(nn.Module):
    """Computes something else in every step, by a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(64, CLASSES), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x.flatten(1)) * min(self.calls / 5, 1.0)


class Cached(nn.Module):
    """Keeps a tensor of the last batch beside its registered ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(64, CLASSES), torch.zeros(CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.flatten(1))
        self.last = y.detach().mean(0)
        return y - 0.1 * self.last


def halved_by_hook() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    network[1].register_forward_hook(lambda module, inputs, output: output / 2)
    return network


def frozen() -> nn.Module:
    network = linear(lambda m, x: x.relu(), unused=nn.Linear(3, 3))
    network.one.weight.requires_grad_(False)  # type: ignore[union-attr]
    return network


def shared_layers() -> nn.Module:
    layer = nn.Linear(6, 6)
    return linear(lambda m, x: m.b(m.a(x).tanh()).tanh(), a=layer, b=layer)


LANES: dict[str, Callable[[], nn.Module]] = {
    "ResNet with BatchNorm, in-place ReLU and additions": resnet,
    "U-Net with skip connections and ConvTranspose2d": unet,
    "DenseNet": densenet,
    "depthwise separable convolutions, squeeze and excitation": mobilenet,
    "MLP-Mixer": mixer,
    "ViT with a class token, without dropout": vit,
    "GPT block: scaled_dot_product_attention, causal, tied weights": gpt,
    "TransformerEncoder with a padding mask": masked_transformer,
    "mixture of experts by topk and gather": experts,
    "nn.LSTM, two layers, both directions, with dropout": lambda: recurrent(nn.LSTM),
    "nn.GRU, likewise": lambda: recurrent(nn.GRU),
    "GroupNorm and InstanceNorm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(),
        nn.Linear(144, CLASSES),
    ),
    "weight_norm (parametrizations)": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, CLASSES))
    ),
    "custom autograd Function with a vmap rule": lambda: linear(lambda m, x: SquaredWithRule.apply(x)),
    "nn.EmbeddingBag": lambda: nn.Sequential(nn.EmbeddingBag(11, 6), nn.Linear(6, CLASSES)),
    "nn.Bilinear": lambda: linear(lambda m, x: m.pair(x, x.tanh()), pair=nn.Bilinear(6, 6, 6)),
    "frozen weights, and a layer that is not used": frozen,
    "one layer in two places": shared_layers,
    "a forward hook that changes the output": halved_by_hook,
    "FFT": lambda: linear(lambda m, x: torch.fft.rfft(x).abs() @ m.mix, mix=nn.Parameter(torch.randn(4, 6))),
    "detach and no_grad": lambda: linear(lambda m, x: x * x.detach().sigmoid()),
    "nn.Dropout": lambda: linear(lambda m, x: m.drop(x), drop=nn.Dropout(0.3)),
    "ParameterList and ModuleDict": lambda: linear(
        lambda m, x: m.acts["tanh"](x) * m.scales[0],
        acts=nn.ModuleDict({"tanh": nn.Tanh()}),
        scales=nn.ParameterList([nn.Parameter(torch.ones(6))]),
    ),
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    ".item() in forward": (lambda: linear(lambda m, x: x / (1 + abs(x.sum().item()))), "item"),
    "`if` on the values of a tensor": (lambda: linear(lambda m, x: x if x.mean() > 0 else 2 * x), "branch"),
    "indexing by a boolean mask": (lambda: linear(lambda m, x: x + x[x > 0].mean()), "boolean mask"),
    "F.one_hot": (
        lambda: Net(lambda m, x: m.head(F.one_hot(x, 11).double().flatten(1)), head=nn.Linear(66, CLASSES)),
        "item",
    ),
    "torch.randn_like in forward": (lambda: linear(lambda m, x: x + torch.randn_like(x)), "random numbers"),
    "stochastic depth by torch.rand": (lambda: linear(lambda m, x: x * (torch.rand(()) > 0.5)), "random numbers"),
    "F.dropout": (lambda: linear(lambda m, x: F.dropout(x, 0.3, m.training)), "random numbers"),
    "nn.Dropout2d": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(144, CLASSES)),
        "random numbers",
    ),
    "TransformerEncoderLayer with dropout inside attention": (lambda: vit(0.1), "random numbers"),
    "activation checkpointing, re-entrant": (
        lambda: linear(lambda m, x: checkpoint(torch.tanh, x, use_reentrant=True)),
        "",
    ),
    "custom autograd Function of the old style": (lambda: linear(lambda m, x: Squared.apply(x)), "setup_context"),
    "packed sequences": (packed, ""),
    "BatchNorm with momentum=None": (
        lambda: linear(lambda m, x: m.norm(x), norm=nn.BatchNorm1d(6, momentum=None)),
        "item",
    ),
    "a number of its own that changes in every step": (Warming, "attributes"),
    "a tensor kept from step to step that is not a buffer": (Cached, "attributes"),
    "a full backward hook": (lambda: _with_backward_hook(), "backward hook"),
    "torch.jit.script": (
        lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))),  # type: ignore[no-untyped-call]
        "",
    ),
}
ON_WORDS = ("GPT", "TransformerEncoder with a padding", "nn.LSTM", "nn.GRU", "nn.EmbeddingBag", "F.one_hot", "packed")


def _with_backward_hook() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    network[1].register_full_backward_hook(lambda module, before, after: None)
    return network


def task_of(name: str, build: Callable[[], nn.Module]) -> Task:
    data = words if name.startswith(ON_WORDS) else images
    return Task(lambda config: build().double(), data(40), data(16), device="cpu")


def jobs(epochs: int) -> list[Job]:
    return [
        Job(k, Config(lr=0.01 * (k + 1), batch_size=9, optimizer="momentum"), 50 + k, epochs, epochs) for k in range(3)
    ]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", list(LANES))
def test_trains_as_lanes_what_the_plain_loop_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "RECORD_AFTER_SECONDS", 0.0)
    task = task_of(name, LANES[name])
    lanes, plain = ([Training(task, job) for job in jobs(3)] for _ in range(2))
    assert len({lane_key(training) for training in lanes}) == 1
    together = Lanes(lanes)
    together.spot_check()
    for _ in range(3):
        assert not any(isinstance(result, Exception) for result in together.train_epoch())
        for training in plain:
            training.train_epoch()
    for lane, right in zip(lanes, plain, strict=True):
        for (what, value), expected in zip(
            lane.model.state_dict().items(), right.model.state_dict().values(), strict=True
        ):
            scale = max(float(expected.double().abs().max()), 1e-3)
            assert float((value.double() - expected.double()).abs().max()) < 1e-9 * scale, what
        assert lane.reports[-1].metrics["val_error"] == pytest.approx(right.reports[-1].metrics["val_error"])


@pytest.mark.filterwarnings("ignore")  # torch has something to say about many of these
@pytest.mark.parametrize("name", list(REFUSED))
def test_is_refused_and_trains_in_the_plain_loop(name: str, tmp_path: Path) -> None:
    build, expected = REFUSED[name]
    task = task_of(name, build)
    with pytest.raises(LanesError, match=expected):
        Lanes([Training(task, job) for job in jobs(2)]).spot_check()
    events, reports = finish(LaneRunner(task, tmp_path / "lanes", 4), jobs(2))
    assert expected in "".join(event.message for event in events if isinstance(event, Notice))
    _, plain = finish(TaskRunner(task, tmp_path / "plain"), jobs(2))
    assert comparable(reports) == comparable(plain) and len(reports) > 6
    assert all(math.isfinite(report.metrics["train_loss"]) for report in reports)
