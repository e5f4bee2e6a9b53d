"""Optimisers by name: what each reads from a configuration, and how it is built.

PyTorch's own implementations are used wherever it has one, fused where the parameters allow it. Written here
are Lion, and the two optimisers of TensorFlow 1 that compute something else than PyTorch's of the same name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rheostat.errors import TaskError, unknown
from rheostat.train.adam import Adam, AdamW
from rheostat.train.eager import eager

Values = Mapping[str, float]
Parameters = list[dict[str, Any]]  # groups, as torch.optim takes them


@dataclass(frozen=True)
class Group:
    """Parameters whose learning rate is `lr_scale` times that of the configuration."""

    parameters: tuple[nn.Parameter, ...]
    lr_scale: float = 1.0


@dataclass(frozen=True)
class Allowed:
    """The numbers that a setting may be, in words and as a test."""

    words: str
    test: Callable[[float], bool]


POSITIVE = Allowed("greater than 0", lambda value: value > 0)
NOT_NEGATIVE = Allowed("of at least 0", lambda value: value >= 0)
BELOW_ONE = Allowed("of at least 0 and less than 1", lambda value: 0 <= value < 1)

RANGES: Mapping[str, Allowed] = {
    "lr": POSITIVE,
    "momentum": BELOW_ONE,
    "weight_decay": NOT_NEGATIVE,
    "beta1": BELOW_ONE,
    "beta2": BELOW_ONE,
    "eps": POSITIVE,
    "rho": BELOW_ONE,
    "accumulator": NOT_NEGATIVE,
}


def number(config: Mapping[str, Any], name: str, default: float, allowed: Allowed) -> float:
    """A setting of the configuration as a float; the default where it is absent or None.

    Raises TaskError for anything but a finite number in the allowed range.
    """
    value = config.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not allowed.test(value):
        raise TaskError(
            f"{name}={value!r} is not allowed: give a finite number {allowed.words}, "
            f"or leave {name} out for its default, {default:g}."
        )
    return float(value)


SGD, Adagrad = eager(torch.optim.SGD), eager(torch.optim.Adagrad)
RMSprop, Adadelta = eager(torch.optim.RMSprop), eager(torch.optim.Adadelta)


class _PerGroup(eager(Optimizer), ABC):  # type: ignore[misc]
    """An optimiser that updates all parameters of a group that have a gradient at once."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update. `closure`, where given, computes the loss and the gradients afresh."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters, [p.grad for p in parameters])
        return loss

    @abstractmethod
    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None: ...

    def _states(self, name: str, parameters: list[Tensor], start: float = 0.0) -> list[Tensor]:
        """The state of this name of each parameter, in its shape; filled with `start` when new."""
        for p in parameters:
            if name not in self.state[p]:
                self.state[p][name] = torch.full_like(p, start, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in parameters]


class NAdam(eager(torch.optim.NAdam)):  # type: ignore[misc]
    """PyTorch's NAdam, continued exactly: its product of momenta keeps the precision it was saved with.

    PyTorch converts all state but the step to the dtype and device of the parameter when it loads it.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, own, strict=True):
            if index in state_dict["state"]:
                self.state[p]["mu_product"] = state_dict["state"][index]["mu_product"].clone()


class Lion(_PerGroup):
    """The sign of a mean of gradients, with decoupled weight decay.

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2 (arXiv 2302.06675).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Parameters,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        means = self._states("exp_avg", parameters)
        directions = torch._foreach_lerp(means, gradients, 1 - beta1)  # c = β1 m + (1 - β1) g
        torch._foreach_sign_(directions)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])  # θ -= η (sign c + λ θ)
        torch._foreach_lerp_(means, gradients, 1 - beta2)  # m = β2 m + (1 - β2) g


class AdamTF1(_PerGroup):
    """Adam as `tf.train.AdamOptimizer` computes it: epsilon is added before the bias correction.

    Kingma and Ba 2015 (arXiv 1412.6980) describe it at the end of section 2; TensorFlow calls it "epsilon
    hat". Updates are counted once for all parameters, as there. Weight decay is added to the gradient, as an
    L2 regulariser in the loss would be.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(parameters, defaults)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        group["step"] += 1
        gradients = _with_decay(gradients, parameters, group["weight_decay"])
        means, squares = self._states("exp_avg", parameters), self._states("exp_avg_sq", parameters)
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        correction = math.sqrt(1 - beta2 ** group["step"]) / (1 - beta1 ** group["step"])
        torch._foreach_addcdiv_(parameters, means, roots, -group["lr"] * correction)


class AdagradTF1(_PerGroup):
    """Adagrad as `tf.train.AdagradOptimizer` computes it: the accumulator starts above zero, without epsilon.

    Duchi et al. 2011. Weight decay is added to the gradient, as an L2 regulariser in the loss would be.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Parameters,
        lr: float = 0.05,
        accumulator: float = 0.1,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "accumulator": accumulator, "weight_decay": weight_decay})

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        gradients = _with_decay(gradients, parameters, group["weight_decay"])
        sums = self._states("sum", parameters, start=group["accumulator"])
        torch._foreach_addcmul_(sums, gradients, gradients)
        torch._foreach_addcdiv_(parameters, gradients, torch._foreach_sqrt(sums), -group["lr"])


def _with_decay(gradients: list[Tensor], parameters: list[Tensor], weight_decay: float) -> list[Tensor]:
    """Gradients of the loss plus ½ · weight_decay · |w|²."""
    return list(torch._foreach_add(gradients, parameters, alpha=weight_decay)) if weight_decay else gradients


FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def _fused(parameters: Parameters, devices: frozenset[str] = FUSED_DEVICES) -> bool | None:
    """True where the fused kernel takes these parameters; None leaves the choice to PyTorch."""
    listed = [parameter for group in parameters for parameter in group["params"]]
    return True if all(p.is_floating_point() and p.device.type in devices for p in listed) else None


def _sgd(parameters: Parameters, v: Values) -> Optimizer:
    return SGD(parameters, v["lr"], v["momentum"], 0, v["weight_decay"], fused=_fused(parameters))


def _nesterov(parameters: Parameters, v: Values) -> Optimizer:
    momentum = v["momentum"]  # without any, there is nothing to look ahead along: plain SGD
    return SGD(parameters, v["lr"], momentum, 0, v["weight_decay"], nesterov=momentum > 0, fused=_fused(parameters))


def _adagrad(parameters: Parameters, v: Values) -> Optimizer:
    fused = _fused(parameters, frozenset({"cpu", "cuda"}))
    return Adagrad(parameters, v["lr"], 0, v["weight_decay"], v["accumulator"], v["eps"], fused=fused)


def _rmsprop(parameters: Parameters, v: Values) -> Optimizer:
    return RMSprop(parameters, v["lr"], v["rho"], v["eps"], v["weight_decay"], v["momentum"])


def _adadelta(parameters: Parameters, v: Values) -> Optimizer:
    return Adadelta(parameters, v["lr"], v["rho"], v["eps"], v["weight_decay"])


def _adam(parameters: Parameters, v: Values) -> Optimizer:
    betas = v["beta1"], v["beta2"]
    return Adam(parameters, v["lr"], betas, v["eps"], v["weight_decay"], fused=_fused(parameters))


def _adamw(parameters: Parameters, v: Values) -> Optimizer:
    betas = v["beta1"], v["beta2"]
    return AdamW(parameters, v["lr"], betas, v["eps"], v["weight_decay"], fused=_fused(parameters))


def _nadam(parameters: Parameters, v: Values) -> Optimizer:
    return NAdam(parameters, v["lr"], (v["beta1"], v["beta2"]), v["eps"], v["weight_decay"])


def _lion(parameters: Parameters, v: Values) -> Optimizer:
    return Lion(parameters, v["lr"], (v["beta1"], v["beta2"]), v["weight_decay"])


def _adam_tf1(parameters: Parameters, v: Values) -> Optimizer:
    return AdamTF1(parameters, v["lr"], (v["beta1"], v["beta2"]), v["eps"], v["weight_decay"])


def _adagrad_tf1(parameters: Parameters, v: Values) -> Optimizer:
    if v["accumulator"] == 0:  # 0 / √0 where a gradient is zero
        raise TaskError(
            "accumulator=0 is not allowed for adagrad_tf1, which has no epsilon: give a finite number "
            "greater than 0, or leave accumulator out for its default, 0.1."
        )
    return AdagradTF1(parameters, v["lr"], v["accumulator"], v["weight_decay"])


@dataclass(frozen=True)
class Recipe:
    """How an optimiser is built, and the hyperparameters it reads with their defaults."""

    make: Callable[[Parameters, Values], Optimizer]
    defaults: Values
    source: str  # of the defaults


_BETAS = {"beta1": 0.9, "beta2": 0.999}

# `weight_decay` is added to the gradient ("coupled", L2) by all but adamw and lion, which shrink the weights
# by lr · weight_decay at each step ("decoupled"; Loshchilov and Hutter 2019).
OPTIMIZERS: Mapping[str, Recipe] = {
    "sgd": Recipe(_sgd, {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}, "Bengio 2012, section 3.1.1"),
    "momentum": Recipe(_sgd, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}, "Bengio 2012; cs231n"),
    "nesterov": Recipe(_nesterov, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}, "Bengio 2012; cs231n"),
    "adagrad": Recipe(
        _adagrad, {"lr": 0.01, "accumulator": 0.0, "eps": 1e-10, "weight_decay": 0.0}, "torch.optim.Adagrad"
    ),
    "rmsprop": Recipe(
        _rmsprop,
        {"lr": 0.01, "rho": 0.99, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.0},
        "torch.optim.RMSprop",
    ),
    "adadelta": Recipe(_adadelta, {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0}, "torch.optim.Adadelta"),
    "adam": Recipe(_adam, {"lr": 1e-3, **_BETAS, "eps": 1e-8, "weight_decay": 0.0}, "Kingma and Ba 2015"),
    "adamw": Recipe(_adamw, {"lr": 1e-3, **_BETAS, "eps": 1e-8, "weight_decay": 0.01}, "torch.optim.AdamW"),
    "nadam": Recipe(_nadam, {"lr": 2e-3, **_BETAS, "eps": 1e-8, "weight_decay": 0.0}, "torch.optim.NAdam"),
    "lion": Recipe(
        _lion, {"lr": 1e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}, "Chen et al. 2023, their code"
    ),
    "adam_tf1": Recipe(_adam_tf1, {"lr": 1e-3, **_BETAS, "eps": 1e-8, "weight_decay": 0.0}, "tf.train.AdamOptimizer"),
    "adagrad_tf1": Recipe(
        _adagrad_tf1,
        {"lr": 0.05, "accumulator": 0.1, "weight_decay": 0.0},
        "tf.train.AdagradOptimizer; lr of tf.estimator.DNNClassifier",
    ),
}


def _recipe(name: object) -> Recipe:
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise TaskError(unknown("optimizer", name, OPTIMIZERS))
    return OPTIMIZERS[name]


def _name(config: Mapping[str, Any]) -> object:
    name = config.get("optimizer")
    return "adam" if name is None else name


def reads(name: str) -> frozenset[str]:
    """The hyperparameters that an optimiser reads. Raises TaskError for an unknown one.

    >>> sorted(reads("momentum"))
    ['lr', 'momentum', 'weight_decay']
    """
    return frozenset(_recipe(name).defaults)


def all_reads() -> frozenset[str]:
    """The hyperparameters that any optimiser reads."""
    return frozenset(RANGES)


def learning_rate(config: Mapping[str, Any]) -> float:
    """`lr`, or the default of the configuration's optimiser.

    0 is not allowed: nothing would be trained. A schedule may still bring the rate down to 0.
    Raises TaskError for an unknown optimiser or a bad value.
    """
    return number(config, "lr", _recipe(_name(config)).defaults["lr"], RANGES["lr"])


def build(config: Mapping[str, Any], groups: Sequence[Group]) -> Optimizer:
    """The optimiser that a configuration names (adam where it names none); each group's `lr_scale` is kept in it.

    Hyperparameters that this optimiser does not read are ignored. Sparse gradients are not supported.
    Raises TaskError for an unknown optimiser, a bad value, or a network without parameters.

    >>> optimizer = build({"optimizer": "momentum", "lr": 0.1}, [Group(tuple(nn.Linear(2, 1).parameters()))])
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
    (0.1, 0.9)
    """
    recipe = _recipe(_name(config))
    values = {key: number(config, key, default, RANGES[key]) for key, default in recipe.defaults.items()}
    filled = [group for group in groups if group.parameters]
    if not filled:
        raise TaskError("The network has no parameters, so there is nothing to train: see what model(config) returns.")
    return recipe.make([{"params": [*g.parameters], "lr_scale": g.lr_scale} for g in filled], values)
