"""The shared step of K lanes: losses and gradients of K networks of one structure, as one list of tensor operations.

At first vmap runs the user's network in every step, and pays for Python and autograd anew. A step that is used much
is therefore recorded once (`make_fx`: what vmap and autograd did, as plain operations on tensors) and replayed. The
recording does the same operations on the same numbers, so its results are the same bits; when to record is a
question of time alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from rheostat.train import dropout, randomness, recurrent
from rheostat.train.dropout import Draw, Masks
from rheostat.train.task import Loss

RECORD_AFTER_SECONDS = 0.2  # of a step under vmap: about what recording costs, so at worst it doubles that time


class Program:
    """What the networks of one structure have in common; their weights and buffers are given at every call.

    `model` is one of the networks; it is copied. Steps are recorded after `record_after` seconds under vmap.
    """

    def __init__(self, model: nn.Module, loss_function: Loss, record_after: float | None = None) -> None:
        self.network = copy.deepcopy(model)
        self.loss_function = loss_function
        self.record_after = RECORD_AFTER_SECONDS if record_after is None else record_after
        self.masks = Masks()
        dropout.install(self.network, self.masks)
        recurrent.install(self.network, self.masks)
        parameters = dict(self.network.named_parameters())
        self.trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        self.buffers = [name for name, _ in self.network.named_buffers()]
        self.names = [*parameters, *self.buffers]
        self._steps: dict[Any, Step] = {}
        self._forwards: dict[Any, Recording] = {}

    def step(self, tensors: Sequence[Tensor], batch: Sequence[Tensor], dropping: frozenset[str]) -> Step:
        """The step for batches of this shape (K, B, ...), with these dropout layers at work.

        `tensors` are the stacked parameters and buffers (K, ...), in the order of `names`.
        """
        key = dropping, *(part.shape for part in batch)
        if key not in self._steps:
            self._steps[key] = Step(self, tensors, batch, dropping)
        return self._steps[key]

    def outputs(self, tensors: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """What the networks make of the same inputs (N, ...), in evaluation mode: (K, N, ...)."""
        key = len(tensors[0]), *(part.shape for part in inputs)
        if key not in self._forwards:
            self._forwards[key] = Recording(self._forward, self.record_after)
        return self._forwards[key](*tensors, *inputs)  # type: ignore[no-any-return]

    def loss(self, state: tuple[dict[str, Tensor], ...], batch: Sequence[Tensor]) -> Tensor:
        """The loss of one network for its batch."""
        *inputs, target = batch
        return self.loss_function(functional_call(self.network, state, tuple(inputs)), target)

    def _forward(self, *flat: Tensor) -> Tensor:
        def one(*flat: Tensor) -> Tensor:
            state = dict(zip(self.names, flat, strict=False))
            return functional_call(self.network, state, flat[len(state) :])  # type: ignore[no-any-return]

        self.network.eval()
        in_dims = tuple(0 if index < len(self.names) else None for index in range(len(flat)))
        with _kernels_with_rules():
            return torch.vmap(one, in_dims)(*flat)


class Step:
    """Losses (K,) and gradients of one shape of batch; buffers are updated in place."""

    def __init__(
        self, program: Program, tensors: Sequence[Tensor], batch: Sequence[Tensor], dropping: frozenset[str]
    ) -> None:
        self.program, self.dropping = program, dropping
        self.draws: list[Draw] = []  # the masks that it needs, in the order in which they are drawn
        self.used = self._explore(tensors, batch)
        self._run = Recording(self._under_vmap, program.record_after)

    def __call__(
        self, tensors: Sequence[Tensor], masks: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The losses, and the gradients of the trained parameters; None where the loss does not depend on one."""
        *gradients, losses = self._run(*tensors, *masks, *batch)
        by_name = dict(zip(self.used, gradients, strict=True))
        return losses, [by_name.get(name) for name in self.program.trained]

    def _loss(
        self, trained: dict[str, Tensor], others: dict[str, Tensor], masks: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> Tensor:
        """The loss of one lane, under vmap."""
        program = self.program
        program.masks.given, program.masks.active = iter(masks), self.dropping
        return program.loss((trained, others), batch)

    def _under_vmap(self, *flat: Tensor) -> list[Tensor]:
        """Of parameters, buffers, masks and batch: the gradients of the used parameters, and the losses."""
        self.program.network.train()
        used = set(self.used)
        state = dict(zip(self.program.names, flat, strict=False))
        trained = {name: tensor for name, tensor in state.items() if name in used}
        others = {name: tensor for name, tensor in state.items() if name not in used}
        masks = flat[len(state) : len(state) + len(self.draws)]
        batch = flat[len(state) + len(self.draws) :]
        with _kernels_with_rules():
            gradients, losses = torch.vmap(grad_and_value(self._loss))(trained, others, masks, batch)
        return [*(_laid_out(gradients[name], state[name]) for name in self.used), losses]

    def _explore(self, tensors: Sequence[Tensor], batch: Sequence[Tensor]) -> list[str]:
        """Which trained parameters the loss depends on; notes the masks that it draws. Changes no buffer."""
        program = self.program
        program.network.train()
        state = {name: tensor.clone() for name, tensor in zip(program.names, tensors, strict=True)}
        program.masks.given, program.masks.active = None, self.dropping
        with torch.no_grad(), randomness.apart():  # as the plain loop runs it: a mask is drawn in the order of memory
            program.masks.draws = self.draws
            program.loss(({name: tensor[0].clone() for name, tensor in state.items()},), [part[0] for part in batch])
        program.masks.draws = []
        trained = [state[name].requires_grad_() for name in program.trained]
        with torch.enable_grad(), _kernels_with_rules():
            losses = torch.vmap(program.loss)((state,), tuple(batch))
            found = torch.autograd.grad(losses.sum(), trained, allow_unused=True)
        return [name for name, gradient in zip(program.trained, found, strict=True) if gradient is not None]


@contextmanager
def _kernels_with_rules() -> Iterator[None]:
    """Attention by operations for which vmap has rules."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Recording:
    """A function of tensors of fixed shapes, which is replaced by a recording of itself once it was used a while."""

    def __init__(self, function: Callable[..., Any], after: float) -> None:
        self._function, self._after = function, after
        self._recorded: Callable[..., Any] | None = None
        self._seconds = 0.0

    @torch.no_grad()
    def __call__(self, *flat: Tensor) -> Any:
        if self._recorded is not None:
            return self._recorded(*flat)
        if self._seconds > self._after:
            self._recorded = self._record(flat)
            return self._recorded(*flat)
        started = time.perf_counter()
        result = self._function(*flat)
        self._seconds += time.perf_counter() - started
        return result

    def _record(self, flat: Sequence[Tensor]) -> Callable[..., Any]:
        """The function as operations alone; as it was where recording fails."""
        try:
            graph = make_fx(self._function)(*(tensor.clone() for tensor in flat))
            simplify(graph, flat)
        except Exception:  # what cannot be recorded goes on under vmap
            return self._function
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
        elif node.target is aten.max_pool2d_with_indices.default:
            node.target = _max_pool2d
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


def _laid_out(gradient: Tensor, weight: Tensor) -> Tensor:
    """In memory as the weight is, which may be channels last: fused updates read raw memory."""
    return gradient.contiguous() if weight.is_contiguous() else torch.empty_like(weight).copy_(gradient)


def _max_pool2d(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Values and indices of torch's own; on a CPU its kernel for channels last is several times faster."""
    values, indices = aten.max_pool2d_with_indices.default(x.contiguous(memory_format=torch.channels_last), *arguments)
    return values.contiguous(), indices.contiguous()


class _Shapes(fx.Interpreter):
    """Notes the shape and strides of every tensor of a graph."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.of: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.of[n] = (result.shape, result.stride(), result.dtype) if isinstance(result, Tensor) else n
        return result
