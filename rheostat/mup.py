"""Width transfer (muP): what is tuned on a narrow network holds for a wide one of the same kind.

In the maximal update parametrisation every layer's outputs keep their size, and change by as much in a step, however
wide the network is; so the best learning rate stays where it is. Sources: Yang et al. 2022, Tensor Programs V, tables
3 and 8 (arXiv 2203.03466); Yang, Simon and Bernstein 2023, A Spectral Condition for Feature Learning (2310.17813).

Let a weight's fan-in be `i` times and its fan-out `o` times that of the same weight in the network of the base widths.
Against that network it then has

    standard deviation at first      sqrt(1 / i) · min(1, sqrt(o / i))
    learning rate, Adam and its kin  1 / i
    learning rate, SGD               o / i

which is table 3: weights from the inputs and biases (1, o), hidden weights (i, o), weights to the outputs (i, 1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.errors import SettingError, TaskError, unknown
from rheostat.train import optimizers, randomness
from rheostat.train.optimizers import Group
from rheostat.types import Config

Build = Callable[[Config], nn.Module]

PLAIN_GRADIENT = ("sgd", "momentum", "nesterov")  # all others normalise the gradient, entry by entry

# Weights stored as (out, in, ...), and as (in, out, ...).
OUT_FIRST = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)
IN_FIRST = (nn.Embedding, nn.EmbeddingBag, nn.modules.conv._ConvTransposeNd)


@dataclass(frozen=True)
class Growth:
    """How many times wider than at the base a parameter is: `fan_in`, and `fan_out`."""

    fan_in: float = 1.0
    fan_out: float = 1.0

    @property
    def deviation(self) -> float:
        """The standard deviation at first, over that at the base width."""
        return math.sqrt(1 / self.fan_in) * min(1.0, math.sqrt(self.fan_out / self.fan_in))

    def lr_scale(self, optimizer: str | None) -> float:
        """The learning rate over that at the base width."""
        return (self.fan_out if optimizer in PLAIN_GRADIENT else 1.0) / self.fan_in


@dataclass(frozen=True)
class Scaled:
    """A builder of networks, scaled by muP from the widths at which hyperparameters are tuned.

    `build` makes the network of a configuration, and `base` names its hyperparameters of width with the values at
    which nothing is changed. Which dimensions of a parameter grow is seen by building the network at the base widths
    too; which of them is the fan-in is known for torch's own layers. A parameter of another module is taken for a
    weight (out, in) where two dimensions grow, and for a bias or embedding where one does; `outputs` names those
    that are weights to the outputs instead. Initial values keep their kind of distribution: they are multiplied.

    Where an embedding's weights are also those of an `nn.Linear`, they are treated as an embedding, and what goes into
    the linear layer is divided by its growth (table 8).

    >>> network = Scaled(lambda c: nn.Sequential(nn.Linear(8, c.units), nn.Linear(c.units, 2)), base={"units": 16})
    >>> config = Config(units=64, lr=0.01)
    >>> [(len(group.parameters), group.lr_scale) for group in network.groups(network(config), config)]
    [(3, 1.0), (1, 0.25)]
    """

    build: Build
    base: Mapping[str, int]
    outputs: Sequence[str] = ()

    def __call__(self, config: Config) -> nn.Module:
        """The network of this configuration, with its initial values scaled. Raises TaskError where it cannot be."""
        model = self.build(config)
        base = self._at_base(config)
        if base is None:
            return model
        sizes = {name: _rms(parameter) for name, parameter in base.named_parameters()}
        uses = self._uses(model, base)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if (size := _rms(parameter)) > 0:
                    parameter.mul_(sizes[name] * _main(uses[parameter]).growth.deviation / size)
        for shared in uses.values():
            for use in shared:
                surplus = use.growth.fan_in / _main(shared).growth.fan_in
                if surplus > 1:
                    use.module.register_forward_pre_hook(_Shrink(1 / surplus))
        return model

    def groups(self, model: nn.Module, config: Config) -> list[Group]:
        """The trained parameters of a network that this made, grouped by learning rate: for `Task(groups=...)`."""
        base = self._at_base(config)
        uses = self._uses(model, model if base is None else base)
        by_scale: dict[float, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            if parameter.requires_grad:
                scale = _main(uses[parameter]).growth.lr_scale(config.get("optimizer"))
                by_scale.setdefault(scale, []).append(parameter)
        return [Group(tuple(parameters), scale) for scale, parameters in by_scale.items()]

    def _at_base(self, config: Config) -> nn.Module | None:
        """The network with the base widths, always the same one; None where the configuration has those itself."""
        for name in self.base:
            if name not in config:
                raise TaskError(f"base: {unknown('hyperparameter', name, copy.copy(config))}")
        if all(config[name] == width for name, width in self.base.items()):
            return None
        at_base = Config({**copy.copy(config), **self.base})  # of a copy: it is not read here, see loop.Recorder
        with randomness.apart():
            randomness.seed_all(0)
            return self.build(at_base)

    def _uses(self, model: nn.Module, base: nn.Module) -> dict[nn.Parameter, list[_Use]]:
        """Where each parameter is used, and how it has grown there. Raises TaskError for networks not alike."""
        before, now = dict(base.named_modules()), dict(model.named_modules())
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        if odd := known ^ {name for name, _ in base.named_parameters(remove_duplicate=False)}:
            raise TaskError(
                f"muP compares this network with that of the base widths {dict(self.base)}, and {min(odd)} is in one "
                "of them only. The widths may change the shapes of parameters, not which there are."
            )
        if wrong := set(self.outputs) - known:
            raise TaskError(f"outputs: {unknown('parameter', min(wrong), sorted(known))}")
        uses: dict[nn.Parameter, list[_Use]] = {}
        for prefix, module in now.items():
            _check_heads(prefix, module, before[prefix])
            for name, parameter in module.named_parameters(recurse=False):
                path = f"{prefix}.{name}" if prefix else name
                small = before[prefix].get_parameter(name)
                growth = _growth(module, name, parameter, small, path in self.outputs)
                uses.setdefault(parameter, []).append(_Use(path, module, growth))
        for shared in uses.values():
            for use in shared:
                if use.growth.fan_in > _main(shared).growth.fan_in and not isinstance(use.module, nn.Linear):
                    raise TaskError(
                        f"{_main(shared).path} and {use.path} share their weights, and grow differently: muP can be "
                        "had only where the latter belongs to an nn.Linear. Untie them."
                    )
        return uses


@dataclass(frozen=True)
class _Use:
    """A parameter as one module uses it."""

    path: str
    module: nn.Module
    growth: Growth


def _main(uses: Sequence[_Use]) -> _Use:
    """The use by which a shared parameter is scaled: where its fan-in grows the least, as in an embedding."""
    return min(uses, key=lambda use: use.growth.fan_in)


@dataclass(frozen=True)
class _Shrink:
    """Multiplies what goes into a module."""

    factor: float

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = inputs
        return first * self.factor, *others


def _rms(values: Tensor) -> float:
    return float(values.detach().float().square().mean().sqrt())


def _growth(module: nn.Module, name: str, parameter: Tensor, base: Tensor, output: bool) -> Growth:
    """How one parameter has grown. Raises TaskError where its number of dimensions has changed."""
    if parameter.dim() != base.dim():
        raise TaskError(
            f"{name} of {type(module).__name__} has shape {tuple(parameter.shape)} here and {tuple(base.shape)} at the "
            "base widths: only sizes may differ, not the number of dimensions."
        )
    ratios = [now / before for now, before in zip(parameter.shape, base.shape, strict=True)]
    grown = [ratio for ratio in ratios if ratio != 1]
    if isinstance(module, OUT_FIRST + IN_FIRST) and "weight" in name and len(ratios) > 1:
        first, others = ratios[0], math.prod(ratios[1:])
        return Growth(first, others) if isinstance(module, IN_FIRST) else Growth(others, first)
    if output:
        return Growth(fan_in=math.prod(grown))
    return Growth(math.prod(grown[1:]), grown[0] if grown else 1.0)


def _check_heads(path: str, module: nn.Module, base: nn.Module) -> None:
    """Raises TaskError for attention whose heads grow, since their product is to be scaled by 1 / size then."""
    if isinstance(module, nn.MultiheadAttention) and isinstance(base, nn.MultiheadAttention):
        now, before = module.head_dim, base.head_dim
        if now != before:
            raise TaskError(
                f"The heads of {path} have {now} units here and {before} at the base widths. nn.MultiheadAttention "
                f"scales by 1 / √units, muP by 1 / units: let the number of heads grow instead, embed_dim // {before}."
            )


@dataclass(frozen=True)
class Coordinates:
    """How large the outputs of each layer are: the mean absolute value by width, before and after each update.

    `sizes` has a tensor (widths, updates + 1) for each layer, by the layer's name.
    """

    widths: tuple[int, ...]
    sizes: Mapping[str, Tensor]

    def slopes(self, updates: int = -1) -> dict[str, float]:
        """The power of width that each layer's outputs grow with after so many updates: 0 where they keep their size.

        By least squares on logarithms.
        """
        x = torch.tensor(self.widths, dtype=torch.float64).log2()
        x = x - x.mean()
        return {
            layer: float(x @ sizes[:, updates].double().clamp_min(1e-30).log2() / x.square().sum())
            for layer, sizes in self.sizes.items()
        }


def coordinate_check(
    network: Scaled | Build,
    config: Config,
    width: str,
    widths: Sequence[int],
    batch: Sequence[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    updates: int = 4,
    seeds: int = 3,
) -> Coordinates:
    """Train networks of several widths for a few updates on one batch, and measure the outputs of their layers.

    `config` holds the optimiser, a learning rate of the size that is used, and all the model needs but `width`; `batch`
    is (inputs, ..., targets). In muP no layer grows with the width after the first updates; the output may be smaller
    in a wide network at first, as 1 / √width (Yang et al. 2022). Layers are the modules with parameters of their own;
    sizes are geometric means over the seeds. Raises SettingError for fewer than two widths.

    The global random generators are left as they were.
    """
    if len(set(widths)) < 2:
        raise SettingError(f"widths={list(widths)}: give at least two widths, three or more to see a slope.")
    found: dict[str, Tensor] = {}
    with randomness.apart():
        for row, value in enumerate(widths):
            at_width = Config({**copy.copy(config), width: value})
            for seed in range(seeds):
                randomness.seed_all(seed)
                for layer, sizes in _trained_sizes(network, at_width, batch, loss, updates).items():
                    logs = found.setdefault(layer, torch.zeros(len(widths), updates + 1))
                    logs[row] += torch.tensor(sizes).clamp_min(1e-30).log() / seeds
    return Coordinates(tuple(widths), {layer: logs.exp() for layer, logs in found.items()})


def _trained_sizes(
    network: Scaled | Build,
    config: Config,
    batch: Sequence[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    updates: int,
) -> dict[str, list[float]]:
    """The mean absolute output of each layer, before the first update and after each."""
    *inputs, targets = batch
    model = network(config).to(targets.device)
    optimizer = optimizers.build(config, _groups(network, model, config))
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    sizes: dict[str, list[float]] = {}

    def measure(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            sizes.setdefault(layer, []).append(float(first.detach().abs().mean()))

        return hook

    for layer, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(measure(layer or "network"))
    for update in range(updates + 1):
        result = loss(model(*inputs), targets)
        if update < updates:
            optimizer.zero_grad()
            result.backward()
            optimizer.step()
    return sizes


def _groups(network: Scaled | Build, model: nn.Module, config: Config) -> list[Group]:
    """The groups of a network, scaled or not."""
    if isinstance(network, Scaled):
        return network.groups(model, config)
    return [Group(tuple(model.parameters()))]
