"""Judges a trial on held-out data while it trains: a hook, so that what it measures is recorded with the trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from rheostat.data.base import Padded, TokenStream
from rheostat.train.hooks import Hook, Run
from rheostat.train.task import Data, Task, evaluate
from rheostat.types import Config

BLOCKS = 10  # of the held-out examples: enough to see how far apart they are
LEAST_IN_A_BLOCK = 5  # examples, or pieces of a text
VALUE, BLOCK, MEMORY = "held_out", "held_out_{}", "memory_bytes"  # the metrics of a report


@dataclass(frozen=True)
class WithHeldOut:
    """The hooks of a task, and one that judges its network on the held-out data: `replace(task, hooks=this)`."""

    task: Task

    def __call__(self, config: Config) -> Sequence[Hook]:
        return [*self.task.hooks(config), HeldOut(self.task)]


class HeldOut(Hook):
    """Judges the weights whenever the task's metric is the best so far after an epoch, on the test data where there are
    any, else on the validation data.

    Its report then holds `held_out`, the metric on all of the data, and `held_out_1` ... `held_out_10`, on parts of
    them (without, for scores of the whole network and where a DataLoader hides the data); and in every epoch
    `memory_bytes`: the most that was in use on an accelerator, on the CPU the parameters, gradients and optimiser
    state. The held-out values change nothing in the training.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.data: Data = task.validation if task.test is None else task.test
        self.name = task.metric.removeprefix("val_")
        self.parts = [] if self.name in task.scores else parts(self.data, BLOCKS)
        self.without_scores = replace(task, scores={}) if self.parts else task
        self.best = math.inf
        self.epoch = 0

    def after_validation(self, run: Run) -> None:
        if run.epoch == self.epoch:  # within an epoch
            return
        self.epoch = run.epoch
        run.metrics[MEMORY] = float(memory_bytes(run))
        sign = -1 if self.task.direction == "maximize" else 1
        value = sign * run.metrics[self.task.metric]
        if not value < self.best:
            return
        self.best = value
        device = next(run.model.parameters()).device
        if self.task.test is None:
            run.metrics[VALUE] = run.metrics[self.task.metric]
        else:
            run.metrics[VALUE] = evaluate(self.task, run.model, self.data, device)[self.name]
        for number, part in enumerate(self.parts, 1):
            run.metrics[BLOCK.format(number)] = evaluate(self.without_scores, run.model, part, device)[self.name]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.epoch = state["best"], state["epoch"]


def blocks_of(metrics: Mapping[str, float]) -> list[float]:
    """The values of the blocks in a report, in order; none where it has none."""
    names = [BLOCK.format(number) for number in range(1, BLOCKS + 1)]
    return [metrics[name] for name in names if name in metrics]


def parts(data: Data, most: int) -> list[Data]:
    """Up to `most` equal parts of data: every so many-th example, or stretches of one long text; none of a DataLoader.

    Parts of fewer than five examples say nothing, so small data have fewer, or none.
    """
    if isinstance(data, DataLoader):
        return []
    pieces = len(data.tokens) // data.length if isinstance(data, TokenStream) else examples(data)
    count = min(most, pieces // LEAST_IN_A_BLOCK)
    if count < 2:
        return []
    if isinstance(data, TokenStream):
        size = len(data.tokens) // count
        return [replace(data, tokens=data.tokens[i * size : (i + 1) * size + 1]) for i in range(count)]
    if isinstance(data, Padded):
        return [Padded(tuple(t[i::count] for t in data.tensors), data.texts[i::count]) for i in range(count)]
    return [tuple(tensor[i::count] for tensor in data) for i in range(count)]


def examples(data: Data) -> int:
    """How many examples, or tokens of one long text, there are; 0 where a DataLoader hides it."""
    if isinstance(data, DataLoader):
        return 0
    return len(data[0]) if isinstance(data, tuple) else len(data)


def memory_bytes(run: Run) -> int:
    """What training takes: the peak on an accelerator, else the size of parameters, gradients and optimiser state."""
    parameters = list(run.model.parameters())
    if parameters[0].device.type != "cpu":
        return int(torch.accelerator.max_memory_allocated())
    tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
    tensors += [s for state in run.optimizer.state.values() for s in state.values() if isinstance(s, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
