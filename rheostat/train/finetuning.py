"""Fine-tuning a network that has been trained before: layers with rates of their own, layers kept as they are.

Layers further from the output hold what is more general, and are changed less: the learning rate falls by a factor
from layer to layer (Howard and Ruder 2018, Universal Language Model Fine-tuning, 3.2, arXiv 1801.06146, where it is
1 / 2.6; Clark et al. 2020, ELECTRA, appendix B, arXiv 2003.10555), or they are frozen altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from rheostat.errors import TaskError, unknown
from rheostat.hyperparameters import space
from rheostat.space import Choice, Float, Hyperparameter, Int, Prior
from rheostat.train.optimizers import POSITIVE, Allowed, Group, number
from rheostat.types import Config, Scalar

HYPERPARAMETERS = ("layer_decay", "frozen_layers", "head_lr_scale")

SHARE = Allowed("greater than 0 and at most 1", lambda value: 0 < value <= 1)


@dataclass(frozen=True)
class Layer:
    """What is trained, or frozen, together: parameters, and the modules that compute with them."""

    name: str
    parameters: list[nn.Parameter] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)


@dataclass(frozen=True)
class FineTuned:
    """A builder of networks that are to be fine-tuned, with the parameter groups for it.

    `build` makes the network of a configuration with its trained weights and a new last layer, which `head` names as
    `named_modules` does ("fc", "classifier", "network.head"). `blocks` names the layers below it from the input to the
    output; without, they are found: the items of each list of layers (Sequential, ModuleList), and what stands beside
    the lists. What has no matrix, as normalisation, belongs to the layer registered before it.

    Read from the configuration, for L layers:

    - `layer_decay` (1): the learning rate of layer l = 1 ... L is lr · layer_decay^(L + 1 - l).
    - `head_lr_scale` (1): that of the head is lr · head_lr_scale.
    - `frozen_layers` (0): so many layers from the input on keep their weights, and stay in evaluation mode, so that
      batch normalisation keeps its statistics too, and nothing is dropped out.

    >>> tuned = FineTuned(lambda c: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)), "3")
    >>> config = Config(layer_decay=0.5, head_lr_scale=10.0)
    >>> [group.lr_scale for group in tuned.groups(tuned(config), config)]
    [0.25, 0.5, 10.0]
    """

    build: Callable[[Config], nn.Module]
    head: str
    blocks: Sequence[str] = ()

    def __call__(self, config: Config) -> nn.Module:
        """The network, its first layers frozen. Raises TaskError for names that it does not have."""
        model = self.build(config)
        for layer in self._frozen(self.layers(model), config):
            for parameter in layer.parameters:
                parameter.requires_grad_(False)
            for module in layer.modules:
                module.register_forward_pre_hook(_stay_in_evaluation)  # model.train() would change it back
        return model

    def groups(self, model: nn.Module, config: Config) -> list[Group]:
        """The layers that are trained, with their learning rates: for `Task(groups=...)`.

        Raises TaskError for a value that is not allowed.
        """
        decay = number(config, "layer_decay", 1.0, SHARE)
        head_scale = number(config, "head_lr_scale", 1.0, POSITIVE)
        *body, head = self.layers(model)
        trained = body[len(self._frozen([*body, head], config)) :]
        scales = [decay ** (len(trained) - i) for i in range(len(trained))]
        return [
            Group(tuple(p for p in layer.parameters if p.requires_grad), scale)
            for layer, scale in zip([*trained, head], [*scales, head_scale], strict=True)
        ]

    def layers(self, model: nn.Module) -> list[Layer]:
        """The layers from the input to the output; the last is the head. Raises TaskError where there are none."""
        modules = dict(model.named_modules())
        for name in (self.head, *self.blocks):
            if not name or name not in modules:
                raise TaskError(unknown("module", name, [path for path in modules if path and path.count(".") < 2]))
        layers = [Layer(name) for name in (*(self.blocks or _found(model, self.head)), self.head)]
        if len(layers) == 1:
            raise TaskError(f"The network has no layers below its head {self.head!r}: there is nothing to fine-tune.")
        current, seen = layers[0], set[int]()
        for path, module in modules.items():
            layer = next((layer for layer in layers if _within(path, layer.name)), current)
            if layer is not layers[-1]:
                current = layer
            if not any(_within(other.name, path) for other in layers if other is not layer):
                layer.modules.append(module)  # and no container of several layers
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    layer.parameters.append(parameter)
        if not layers[-1].parameters:
            raise TaskError(f"The head {self.head!r} has no parameters of its own: name the new last layer.")
        return layers

    def _frozen(self, layers: list[Layer], config: Config) -> list[Layer]:
        frozen, most = config.get("frozen_layers", 0), len(layers) - 1
        if not isinstance(frozen, int) or isinstance(frozen, bool) or not 0 <= frozen <= most:
            raise TaskError(
                f"frozen_layers={frozen!r}: give a whole number from 0 to {most}, for the layers below the head are "
                f"{', '.join(layer.name for layer in layers[:-1])}."
            )
        return layers[:frozen]


def _stay_in_evaluation(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    module.training = False


def _within(path: str, name: str) -> bool:
    """Whether a module is the named one or inside it."""
    return not name or path == name or path.startswith(f"{name}.")


def _found(model: nn.Module, head: str) -> list[str]:
    """The names of the layers below the head, in the order in which they were registered."""
    names = list(_layers_of("", model, head))
    while len(names) == 1 and (inside := list(_layers_of(names[0], model.get_submodule(names[0]), head))):
        names = inside  # a whole network as the first item of a list, with the head as the second
    return names


def _layers_of(path: str, module: nn.Module, head: str) -> Iterator[str]:
    """Lists of layers are opened, and what contains lists or the head, but not the items of lists."""
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if _within(head, full) and head != full:
            yield from _layers_of(full, child, head)
        elif head != full and any(parameter.dim() > 1 for parameter in child.parameters()):
            if not _is_list(module) and any(map(_is_list, child.modules())):
                yield from _layers_of(full, child, head)
            else:
                yield full


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def fine_tuning_space(layers: int) -> dict[str, Hyperparameter | Scalar]:
    """A space for fine-tuning a network with so many layers below its head, by AdamW; ready for `Space`.

    Layer-wise decay: 0.38 (Howard and Ruder 2018), 0.8 to 0.9 (Clark et al. 2020), 0.65 for large transformers
    (Bao et al. 2022, BEiT).

    >>> parts = fine_tuning_space(6)
    >>> parts["lr"].low, parts["lr"].high, parts["lr"].prior.value, parts["frozen_layers"].high
    (1e-06, 0.001, 5e-05, 6)
    """
    return {
        **space("lr", "weight_decay", "warmup", fine_tuning=True, optimizer="adamw"),
        "optimizer": "adamw",
        "batch_size": 32,
        "schedule": Choice(["linear", "cosine"], prior=Prior("linear", 0.5)),
        "layer_decay": Float(0.35, 1.0, prior=Prior(0.8, 0.4)),
        "frozen_layers": Int(0, layers, prior=Prior(0, 0.4)),
        "head_lr_scale": Float(1.0, 100.0, log=True, prior=Prior(10.0, 0.4)),  # it is new, the rest is not
    }
