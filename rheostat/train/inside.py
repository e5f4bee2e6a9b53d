"""A pass through a network as it looks from inside: which module is at work, and which operations run in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

from rheostat.errors import TaskError
from rheostat.train import randomness

Left = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Any], None]  # module, inputs, named inputs, output
Operation = Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], None]  # of torch's ATen; its inputs, its output


class Inside:
    """The modules at work in a pass through a network, the innermost last, which is where an operation runs.

    `left` is called whenever a module has given its output.
    """

    def __init__(self, network: nn.Module, left: Left) -> None:
        self._network, self._left = network, left
        self.at_work: list[nn.Module] = []

    @contextmanager
    def watched(self, operation: Operation | None = None) -> Iterator[None]:
        """Within it the passes are watched; `operation` is called after each operation of torch, if it is given."""
        with ExitStack() as stack:
            for module in self._network.modules():
                entering = module.register_forward_pre_hook(self._enter, prepend=True)
                leaving = module.register_forward_hook(self._leave, with_kwargs=True)
                stack.callback(entering.remove)
                stack.callback(leaving.remove)
            if operation is not None:
                stack.enter_context(_Operations(operation))
            yield

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.at_work.append(module)

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        self.at_work.pop()
        self._left(module, inputs, named, output)


class _Operations(TorchDispatchMode):
    def __init__(self, seen: Operation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here; to say so would import the compiler, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._seen(func, args, kwargs or {}, output)
        return output


def copied(network: nn.Module) -> nn.Module:
    """A copy to be passed through, so that the network itself, its buffers and what it remembers stay as they are.

    Raises TaskError for a network that cannot be copied.
    """
    try:
        twin = copy.deepcopy(network)
    except Exception as cause:  # the user's modules may hold anything
        raise TaskError(
            f"The network cannot be copied, so it cannot be looked into: {type(cause).__name__}: {cause}. "
            "Keep only modules, parameters, buffers and plain values as attributes of a module."
        ) from cause
    for module in twin.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # the copy of weights that lay together, as cuDNN wants them, does not
    return twin


def applied(network: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """What the network makes of a batch. What it draws leaves the random state as it was.

    Raises TaskError where it cannot be applied to it.
    """
    try:
        with randomness.apart():
            return network(*inputs)
    except Exception as cause:  # the user's modules may raise anything
        raise TaskError(
            f"The network cannot be applied to inputs of shapes {[tuple(x.shape) for x in inputs]}: "
            f"{type(cause).__name__}: {cause}. Give a batch of two or more examples, as in training."
        ) from cause


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in what a module gives: itself, or in a tuple, list or mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, PackedSequence):
        return value.data
    parts: Sequence[Any] = ()
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, tuple | list):
        parts = value
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)


def own_parameters(network: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """By the name of the module that owns them, parameters by their own names; a shared one at its first owner."""
    seen: set[int] = set()
    owners: dict[str, dict[str, nn.Parameter]] = {}
    for name, module in network.named_modules():
        own = {n: p for n, p in module.named_parameters(recurse=False) if id(p) not in seen}
        seen.update(map(id, own.values()))
        if own:
            owners[name] = own
    return owners
