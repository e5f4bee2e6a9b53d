"""What a network is: its layers in the order in which they run, with their sizes and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Optimizer
from torch.utils.flop_counter import flop_registry

from rheostat.errors import TaskError
from rheostat.train.inside import Inside, applied, copied, first_tensor

Recurrent = nn.RNNBase | nn.RNNCellBase


@dataclass(frozen=True)
class Cost:
    """What a layer, or a network, costs.

    `multiply_adds` are those of matrix products, convolutions and attention in one pass for one example; what is
    done element by element is not counted, as it is usual. `activation_bytes` are what training keeps of one example
    for the backward pass, on the device that was used. `optimizer_bytes` are its state beside the parameters.
    """

    parameters: int = 0
    multiply_adds: int = 0
    parameter_bytes: int = 0
    activation_bytes: int = 0
    optimizer_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.parameter_bytes + other.parameter_bytes,
            self.activation_bytes + other.activation_bytes,
            self.optimizer_bytes + other.optimizer_bytes,
        )


@dataclass(frozen=True)
class LayerRow:
    """A layer: a module without modules in it, or what a larger one does itself, such as attention.

    `name` is that in `named_modules`, empty for the network itself; `shape` is that of its output for one example;
    `calls` is how often it runs in a pass.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    calls: int
    cost: Cost


def total(rows: Iterable[LayerRow]) -> Cost:
    """The cost of a whole network."""
    return sum((row.cost for row in rows), Cost())


@torch.enable_grad()
def summary(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    optimizer: Callable[[nn.Module], Optimizer] | None = None,
) -> tuple[LayerRow, ...]:
    """The layers of a network in the order in which they run for a batch of inputs, each (B, ...).

    A parameter that several modules share counts where it runs first; those of a module that does not run count
    where the module around it does. `optimizer` makes one for a network, so that its state can be measured.
    Everything is measured on copies in passes for this batch, and divided by B. Give two examples or more.

    Raises TaskError where the network cannot be copied, or applied to these inputs.

    >>> network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> rows = summary(network, (torch.zeros(2, 8),), lambda copy: torch.optim.Adam(copy.parameters()))
    >>> [(row.name, row.kind, row.shape, row.cost.parameters, row.cost.multiply_adds) for row in rows]
    [('0', 'Linear', (16,), 144, 128), ('1', 'ReLU', (16,), 0, 0), ('2', 'Linear', (3,), 51, 48)]
    >>> total(rows)
    Cost(parameters=195, multiply_adds=176, parameter_bytes=780, activation_bytes=64, optimizer_bytes=1576)
    """
    if not inputs or not inputs[0].dim():
        raise TaskError("summary(network, inputs): give a tuple of tensors, each with the examples as its first axis.")
    batch = len(inputs[0])
    order, shapes, operations = _passed(network, inputs)
    kept = _kept(network, inputs)
    state = _state_bytes(network, optimizer)
    owned = _parameters_where_they_run(network, order)
    rows = []
    for name, calls in order.items():
        module = network.get_submodule(name)
        mine = owned.get(name, [])
        cost = Cost(
            sum(parameter.numel() for _, parameter in mine),
            round(operations.get(name, 0) / batch),
            sum(parameter.numel() * parameter.element_size() for _, parameter in mine),
            round(kept.get(name, 0) / batch),
            sum(state.get(full_name, 0) for full_name, _ in mine),
        )
        if cost != Cost() or not list(module.children()):
            rows.append(LayerRow(name, type(module).__name__, _of_one(shapes[name], batch), calls, cost))
    return tuple(rows)


def _passed(
    network: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[dict[str, int], dict[str, tuple[int, ...]], dict[str, float]]:
    """Of one pass in evaluation mode, by name: calls in the order of the first output, shapes, multiply-adds."""
    twin = copied(network).eval()
    names = {module: name for name, module in twin.named_modules()}
    calls: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    operations: dict[str, float] = {}

    def left(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        name, tensor = names[module], first_tensor(output)
        calls[name] = calls.get(name, 0) + 1
        shapes.setdefault(name, () if tensor is None else tuple(tensor.shape))
        if isinstance(module, Recurrent):
            operations[name] = operations.get(name, 0) + _recurrent_multiply_adds(module, given[0])

    def operation(function: Any, args: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        count = flop_registry.get(function.overloadpacket)
        module = inside.at_work[-1]
        if count is not None and not isinstance(module, Recurrent):  # those have kernels of their own
            flops = count(*args, **named, out_val=output)
            operations[names[module]] = operations.get(names[module], 0) + flops / 2

    inside = Inside(twin, left)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it goes past the modules inside
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), inside.watched(operation):  # attention as its products
            applied(twin, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return calls, shapes, operations


def _kept(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Bytes that a pass in training mode keeps for the backward pass, by the name of the module that keeps them.

    What is shared, as the output of a layer that is the input of the next, counts once; parameters, buffers and the
    inputs themselves do not, as they are there anyway.
    """
    twin = copied(network).train()
    names = {module: name for name, module in twin.named_modules()}
    inside = Inside(twin, lambda module, given, named, output: None)
    there = {_storage(tensor) for tensor in (*inputs, *twin.parameters(), *twin.buffers())}
    kept: dict[int, Tensor] = {}  # by the place in memory, which nothing else can take while it is held here
    sizes: dict[str, int] = {}

    def packed(tensor: Tensor) -> Tensor:
        place = _storage(tensor)
        if place not in there and place not in kept:
            kept[place] = tensor
            name = names[inside.at_work[-1]]
            sizes[name] = sizes.get(name, 0) + tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor), inside.watched():
        applied(twin, inputs)
    return sizes


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _state_bytes(network: nn.Module, optimizer: Callable[[nn.Module], Optimizer] | None) -> dict[str, int]:
    """Bytes of the optimiser's state after an update, by the full name of the parameter."""
    if optimizer is None:
        return {}
    twin = copied(network)
    built = optimizer(twin)
    for parameter in twin.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    built.step()
    return {
        name: sum(v.numel() * v.element_size() for v in built.state[parameter].values() if isinstance(v, Tensor))
        for name, parameter in twin.named_parameters()
    }


def _parameters_where_they_run(
    network: nn.Module, order: Mapping[str, int]
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Full names and parameters, by the name of the module that runs with them first."""
    full_names = {parameter: name for name, parameter in network.named_parameters()}
    owners = {name: list(module.parameters(recurse=False)) for name, module in network.named_modules()}
    running: dict[str, list[nn.Parameter]] = {name: [] for name in order}
    for name, parameters in owners.items():
        while name not in running:
            name = name.rpartition(".")[0]
        running[name] += parameters
    seen: set[nn.Parameter] = set()
    result: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameters in running.items():
        new = [p for p in dict.fromkeys(parameters) if p not in seen]
        seen.update(new)
        result[name] = [(full_names[p], p) for p in new]
    return result


def _recurrent_multiply_adds(module: Recurrent, given: Tensor | PackedSequence) -> int:
    """Those of a recurrent layer or cell for all steps of all examples: every step goes through each matrix once."""
    data = given if isinstance(given, Tensor) else given.data
    steps = data.numel() // module.input_size
    return steps * sum(weight.numel() for name, weight in module.named_parameters() if name.startswith("weight"))


def _of_one(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """A shape without the examples: the first axis of their number, else what the first axis holds of each.

    >>> _of_one((8, 5, 3), 8), _of_one((5, 8, 3), 8), _of_one((40, 3), 8)
    ((5, 3), (5, 3), (5, 3))
    """
    if batch in shape:
        place = shape.index(batch)
        return shape[:place] + shape[place + 1 :]
    if shape and shape[0] % batch == 0:
        return (shape[0] // batch, *shape[1:])
    return shape
