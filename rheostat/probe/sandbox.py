"""A training that leaves nothing behind: what every probe works in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from rheostat.data.base import Padded
from rheostat.train.batches import LoaderBatches
from rheostat.train.loop import Training
from rheostat.train.task import Task
from rheostat.types import Config, Job, Scalar, derive_seed

Progress = Callable[[float], None]  # is told from time to time what share of a probe is done


def nobody(share: float) -> None:
    """Where nobody waits for it."""


@contextmanager
def sandbox(task: Task, config: Mapping[str, Scalar], seed: int, epochs: int = 1) -> Iterator[Training]:
    """The training of a configuration, made ready for its first update, with schedules laid out over `epochs`.

    Within it the global generators are the training's own. Afterwards they are as they were, and so are the weights,
    buffers, gradients and modes of a network that the task's builder hands out more than once, and the generator of
    a DataLoader. Nothing is validated or saved. Raises TaskError as `Training` does.
    """
    job = Job(0, Config(config), derive_seed(seed, "probe"), until_epoch=epochs, max_epochs=epochs)
    if task.validate_every_steps is not None:
        task = replace(task, validate_every_steps=None)
    training = Training(task, job)
    model = training.model
    modes = {module: module.training for module in model.modules()}
    tensors = [tensor for tensor in chain(model.parameters(), model.buffers()) if not is_lazy(tensor)]
    kept = [(tensor, tensor.detach().clone(), tensor.grad) for tensor in tensors]
    loader = training.batches.loader if isinstance(training.batches, LoaderBatches) else None
    generator = None if loader is None or loader.generator is None else loader.generator.get_state()
    try:
        with training.own_randomness():
            yield training
    finally:
        with torch.no_grad():
            for tensor, values, gradient in kept:
                tensor.copy_(values)
                tensor.grad = gradient
        for module, mode in modes.items():
            module.training = mode
        if loader is not None and generator is not None:
            loader.generator.set_state(generator)


def endless(training: Training) -> Iterator[tuple[Tensor, ...]]:
    """The batches of epoch after epoch, with what the training does when an epoch begins."""
    for epoch in count():
        training.begin_epoch()
        yield from training.batches.epoch(epoch)


def update(training: Training, batch: tuple[Tensor, ...]) -> float | None:
    """One update from a batch: the loss before it, or None where a hook has ended the training.

    Raises Infeasible when the loss leaves the finite numbers.
    """
    training.set_rate()
    loss = training.backward(batch)
    return float(loss) if training.update(loss, batch[-1]) else None


def examples(task: Task) -> int | None:
    """How many training examples there are; None where batches come from a DataLoader or one long text."""
    if isinstance(task.train, tuple | Padded):
        return len(task.train[0] if isinstance(task.train, tuple) else task.train)
    return None
