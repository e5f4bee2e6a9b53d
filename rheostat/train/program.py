"""The shared step of K lanes: losses and gradients of K networks of one structure, as one list of tensor operations.

At first vmap runs the user's network in every step, and pays for Python and autograd anew. A step that is used much
is therefore recorded once (`make_fx`: what vmap and autograd did, as plain operations on tensors) and replayed. The
recording does the same operations on the same numbers, so its results are the same bits; when to record is a
question of time alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx

from rheostat.train.dropout import Draw, Masks, install
from rheostat.train.task import Loss

RECORD_AFTER_SECONDS = 0.2  # of a step under vmap: about what recording costs, so at worst it doubles that time

Shapes = tuple[tuple[int, ...], ...]


class Program:
    """Steps of the networks of one structure: their weights and buffers are given at every call.

    `model` is one of the networks; it is copied.
    """

    def __init__(self, model: nn.Module, loss_function: Loss) -> None:
        self.network = copy.deepcopy(model).train()
        self.loss_function = loss_function
        self.masks = Masks()
        install(self.network, self.masks)
        parameters = dict(self.network.named_parameters())
        self.parameters = list(parameters)
        self.trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        self.buffers = [name for name, _ in self.network.named_buffers()]
        self._steps: dict[tuple[Shapes, frozenset[str]], Step] = {}

    def step(self, tensors: Sequence[Tensor], batch: Sequence[Tensor], dropping: frozenset[str]) -> Step:
        """The step for batches of this shape (K, B, ...), with these dropout layers at work.

        `tensors` are the stacked parameters and buffers (K, ...).
        """
        key = tuple(tuple(part.shape) for part in batch), dropping
        if key not in self._steps:
            self._steps[key] = Step(self, tensors, batch, dropping)
        return self._steps[key]


class Step:
    """Losses (K,) and gradients of one shape of batch; buffers are updated in place."""

    def __init__(
        self, program: Program, tensors: Sequence[Tensor], batch: Sequence[Tensor], dropping: frozenset[str]
    ) -> None:
        self.program, self.dropping = program, dropping
        self.draws: list[Draw] = []  # the masks that it needs, in the order in which they are drawn
        self.used = self._explore(tensors, batch)
        self._function: Callable[..., Any] = self._under_vmap
        self._seconds = 0.0

    def __call__(
        self, tensors: Sequence[Tensor], masks: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The losses, and the gradients of the trained parameters; None where the loss does not depend on one."""
        flat = [*tensors, *masks, *batch]
        with torch.no_grad():
            if self._function == self._under_vmap:
                started = time.perf_counter()
                *gradients, losses = self._function(*flat)
                self._seconds += time.perf_counter() - started
                if self._seconds > RECORD_AFTER_SECONDS:
                    self._function = self._recorded(flat)
            else:
                *gradients, losses = self._function(*flat)
        by_name = dict(zip(self.used, gradients, strict=True))
        return losses, [by_name.get(name) for name in self.program.trained]

    def _loss(
        self, trained: dict[str, Tensor], others: dict[str, Tensor], masks: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> Tensor:
        """The loss of one lane, under vmap."""
        program = self.program
        program.masks.active = self.dropping
        program.masks.given = iter(masks)
        *inputs, target = batch
        return program.loss_function(functional_call(program.network, (trained, others), tuple(inputs)), target)

    def _under_vmap(self, *flat: Tensor) -> list[Tensor]:
        """Of parameters, buffers, masks and batch: the gradients of the used parameters, and the losses."""
        program, used = self.program, set(self.used)
        state = dict(zip([*program.parameters, *program.buffers], flat, strict=False))
        trained = {name: tensor for name, tensor in state.items() if name in used}
        others = {name: tensor for name, tensor in state.items() if name not in used}
        masks = flat[len(state) : len(state) + len(self.draws)]
        batch = flat[len(state) + len(self.draws) :]
        gradients, losses = torch.vmap(grad_and_value(self._loss))(trained, others, masks, batch)
        return [*(gradients[name].contiguous() for name in self.used), losses]  # fused updates read raw memory

    def _explore(self, tensors: Sequence[Tensor], batch: Sequence[Tensor]) -> list[str]:
        """Which trained parameters the loss depends on; notes the masks that are needed. Changes no buffer."""
        program = self.program
        names = [*program.parameters, *program.buffers]
        trained = set(program.trained)
        state = {
            name: tensor.clone().requires_grad_(name in trained) for name, tensor in zip(names, tensors, strict=True)
        }

        def loss(state: dict[str, Tensor], batch: Sequence[Tensor]) -> Tensor:
            program.masks.active, program.masks.given, program.masks.draws = self.dropping, None, self.draws
            *inputs, target = batch
            return program.loss_function(functional_call(program.network, state, tuple(inputs)), target)

        with torch.enable_grad():
            losses = torch.vmap(loss)(state, tuple(batch))
            found = torch.autograd.grad(losses.sum(), [state[name] for name in program.trained], allow_unused=True)
        return [name for name, gradient in zip(program.trained, found, strict=True) if gradient is not None]

    def _recorded(self, flat: Sequence[Tensor]) -> Callable[..., Any]:
        """The step as operations alone; as it was where recording fails."""
        try:
            graph = make_fx(self._under_vmap)(*(tensor.clone() for tensor in flat))
        except Exception:  # what cannot be recorded goes on under vmap
            self._seconds = -float("inf")
            return self._under_vmap
        simplify(graph, flat)
        return graph


def simplify(graph: fx.GraphModule, flat: Sequence[Tensor]) -> None:
    """Take out of a recorded step what changes nothing: a view that shows a tensor as it was before."""
    shapes = _Shapes(graph)
    shapes.run(*(tensor.clone() for tensor in flat))
    for node in graph.graph.nodes:
        origin = node
        while origin.target in VIEWS:
            origin = origin.args[0]
            if shapes.of[origin] == shapes.of[node]:
                node.replace_all_uses_with(origin)
                break
    for node in reversed(graph.graph.nodes):
        if node.target in VIEWS and not node.users:
            graph.graph.erase_node(node)
    graph.recompile()


aten = torch.ops.aten
VIEWS = {  # they share the memory of their first argument from its beginning, so shape and strides say all
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.detach.default,
}


class _Shapes(fx.Interpreter):
    """Notes the shape and strides of every tensor of a graph."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.of: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.of[n] = (result.shape, result.stride(), result.dtype) if isinstance(result, Tensor) else n
        return result
