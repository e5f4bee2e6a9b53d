"""Many trials as one program: K lanes of one structure share every forward and backward pass.

Only that is shared. Each lane is a `Training` as the plain loop knows it, with its own optimiser, rate, hooks, random
numbers, reports and checkpoint; its weights are slices of stacked tensors of shape (K, ...). A step gathers a batch
for each lane from its own order, runs the network of all lanes at once (`torch.vmap` over `functional_call`, with
autograd outside), hands each lane its slice of the gradients, and lets it make its own update. So whatever the plain
loop can do between two gradients, a lane does by the same code, and a lane that ends, or fails, is nobody else's
business.

What vmap cannot run is refused, with the reason; so is what it runs but computes otherwise than the plain loop
(`spot_check`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from rheostat.data.base import Padded, TokenStream
from rheostat.train.batches import TensorBatches
from rheostat.train.dropout import draw_masks, rates
from rheostat.train.loop import Training
from rheostat.train.program import Program
from rheostat.train.structure import structure
from rheostat.train.task import Task, chunks, no_hooks, pick_device
from rheostat.types import Report

VALIDATION_CHUNK = 512  # examples that go through all lanes at once; a constant, as sums in parts differ in last bits
SPOT_CHECK_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


class LanesError(Exception):
    """These trials cannot be trained as lanes; the words say why, and what to do."""


def refusal(task: Task) -> str:
    """Why no trial of this task can be a lane; empty where nothing speaks against it."""
    if isinstance(task.train, Padded):
        return "sequences of different lengths do not stack"
    if isinstance(task.train, TokenStream):
        return "a network that reads one long text keeps its state from step to step"
    if not isinstance(task.train, tuple):
        return "the training data come from a DataLoader; give tensors"
    if task.hooks is not no_hooks:
        return "the task has hooks of its own, which may draw random numbers within a step"
    if (device := pick_device(task.device)).type != "cpu":
        return f"lanes train on the CPU so far, not on {device}"
    if task.validate_every_steps:
        return "the task is validated within an epoch (validate_every_steps)"
    return ""


def lane_key(training: Training) -> str:
    """Equal for trials that may be lanes of one program."""
    batches = training.batches
    assert isinstance(batches, TensorBatches)
    trainer = (batches.batch_size, training.accumulate, training.config.get("label_smoothing", 0.0))
    return f"{trainer} {structure(training.model)}"


class Lanes:
    """K trainings of one structure (equal `lane_key`).

    Until `release`, the weights of each are slices of shared storage.
    """

    def __init__(self, trainings: Sequence[Training], program: Program | None = None) -> None:
        self.trainings = list(trainings)
        first = self.trainings[0]
        self.program = program or Program(first.model, first.loss_function)
        self.generators = [torch.Generator() for _ in self.trainings]
        by_lane = [rates(training.model) for training in self.trainings]
        self.rates = {layer: [lane[layer] for lane in by_lane] for layer in by_lane[0]}
        self.dropping = frozenset(layer for layer, lanes in self.rates.items() if any(lanes))
        parameters = [dict(training.model.named_parameters()) for training in self.trainings]
        lanes = [
            lane | dict(training.model.named_buffers())
            for lane, training in zip(parameters, self.trainings, strict=True)
        ]
        self.tensors = {name: torch.stack([lane[name].detach() for lane in lanes]) for name in lanes[0]}  # (K, ...)
        self.lane_parameters = [[lane[name] for name in self.program.trained] for lane in parameters]
        self._slots = [(stacked, [lane[name] for lane in lanes]) for name, stacked in self.tensors.items()]
        for stacked, tensors in self._slots:
            for tensor, slice_ in zip(tensors, stacked, strict=True):
                tensor.data = slice_

    def release(self) -> None:
        """Give each lane its own storage back."""
        for _, tensors in self._slots:
            for tensor in tensors:
                tensor.data = tensor.data.clone()

    def train_epoch(self) -> list[list[Report] | Exception]:
        """An epoch of every lane: its reports, or what it raised, in the order of the lanes.

        An exception that concerns them all (out of memory) leaves them in the middle of it, of no further use.
        """
        results: list[list[Report] | Exception | None] = [None] * len(self.trainings)
        for training, generator in zip(self.trainings, self.generators, strict=True):
            generator.set_state(_torch_state(training))
            with nullcontext() if training.begun else training.own_randomness():  # hooks may draw when they begin
                training.begin_epoch()
        for batch in self._batches():
            losses, gradients = self.backward(batch)
            for lane, training in enumerate(self.trainings):
                if results[lane] is None:
                    results[lane] = self._advance(lane, training, losses[lane], gradients, batch[-1][lane])
            if all(result is not None for result in results):
                break
        outputs = self._judge_together([lane for lane, result in enumerate(results) if result is None])
        for lane, training in enumerate(self.trainings):
            if results[lane] is None:
                results[lane] = self._end(lane, training, outputs.get(lane))
        return [result for result in results if result is not None]

    def _advance(
        self, lane: int, training: Training, loss: float, gradients: list[tuple[Tensor, ...] | None], targets: Tensor
    ) -> list[Report] | Exception | None:
        """The update of a lane; its result where the epoch is over for it."""
        training.set_rate()
        for parameter, slices in zip(self.lane_parameters[lane], gradients, strict=True):
            parameter.grad = slices[lane] if slices is not None else None
        try:
            if training.update(loss, targets):
                return None
        except Exception as error:  # of a hook or metric of the user; it concerns this lane alone
            return error
        for _, tensors in self._slots:  # the others' steps still write to its slice
            tensors[lane].data = tensors[lane].data.clone()
        return self._end(lane, training)

    def _judge_together(self, lanes: Sequence[int]) -> dict[int, list[tuple[Tensor, Tensor]]]:
        """What these lanes make of the validation data, and the targets; nothing where averaged weights are judged."""
        together = [lane for lane in lanes if self.trainings[lane].average is None]
        validation = self.trainings[0].task.validation
        if not together or not isinstance(validation, tuple):
            return {}
        tensors = list(self.tensors.values())
        parts = [
            (self.program.outputs(tensors, inputs), target) for *inputs, target in chunks(validation, VALIDATION_CHUNK)
        ]
        return {lane: [(outputs[lane], target) for outputs, target in parts] for lane in together}

    def _end(
        self, lane: int, training: Training, outputs: Sequence[tuple[Tensor, Tensor]] | None = None
    ) -> list[Report] | Exception:
        """The end of an epoch as the plain loop does it, with the random numbers where the lane left them."""
        training.random_state = {**training.random_state, "torch": self.generators[lane].get_state()}
        try:
            with training.own_randomness():
                return training.end_epoch(outputs)
        except Exception as error:  # of a metric or hook of the user; it concerns this lane alone
            return error

    def backward(self, batch: tuple[Tensor, ...]) -> tuple[list[float], list[tuple[Tensor, ...] | None]]:
        """For (K, B, ...) inputs and targets: K mean losses, and for each trained parameter K gradients or None."""
        parts = self.trainings[0].accumulate
        if parts == 1:
            losses, gradients = self._step(batch)
        else:
            losses, gradients = torch.zeros(()), []
            for chunk in zip(*(part.chunk(parts, 1) for part in batch), strict=True):
                share = chunk[-1].shape[1] / batch[-1].shape[1]
                more, summands = self._step(chunk)
                losses = losses + share * more
                summands = [None if g is None else share * g for g in summands]
                pairs = zip(gradients, summands, strict=True)
                gradients = [_sum(one, other) for one, other in pairs] if gradients else summands
        return losses.tolist(), [None if g is None else g.unbind(0) for g in gradients]

    def _step(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor | None]]:
        tensors = list(self.tensors.values())
        step = self.program.step(tensors, batch, self.dropping)
        masks = [draw_masks(draw, self.rates[draw.layer], self.generators).to(tensors[0].device) for draw in step.draws]
        return step(tensors, masks, batch)

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch, each tensor (K, B, ...): every lane in its own order."""
        batches = [training.batches for training in self.trainings]
        tensors = [b for b in batches if isinstance(b, TensorBatches)]
        orders = torch.stack([b.order(t.run.epoch) for b, t in zip(tensors, self.trainings, strict=True)])  # (K, N)
        sizes = tensors[0].sizes
        for rows in orders[:, : sum(sizes)].split(sizes, dim=1):
            flat = rows.reshape(-1)
            yield tuple(part.index_select(0, flat).view(*rows.shape, *part.shape[1:]) for part in tensors[0].data)

    def spot_check(self) -> None:
        """Compare one step of every lane with the plain loop; leaves everything as it was.

        Raises LanesError where vmap cannot run the network, or comes to another loss or gradient.
        """
        names, network = self.program.buffers, self.program.network
        buffers = {name: self.tensors[name].clone() for name in names}
        for training, generator in zip(self.trainings, self.generators, strict=True):
            generator.set_state(_torch_state(training))
        before = structure(network)
        try:
            batch = next(self._batches())
            losses, gradients = self.backward(batch)
            changed = structure(network) != before
        except Exception as cause:  # whatever vmap has to say about the user's code
            raise LanesError(_explained(cause)) from cause
        finally:
            after = {name: self.tensors[name].clone() for name in names}
            for name in names:
                self.tensors[name].copy_(buffers[name])
        if changed:
            raise LanesError(KEPT)
        for lane, training in enumerate(self.trainings):
            own = [losses[lane], *(None if g is None else g[lane] for g in gradients)]
            own += [after[name][lane] for name in names]
            expected = _plain_step(training, tuple(part[lane] for part in batch), self.program.trained, names)
            difference = _difference(own, expected)
            allowed = SPOT_CHECK_TOLERANCE.get(self.lane_parameters[lane][0].dtype, 1e-3)
            if not difference <= allowed:
                raise LanesError(
                    f"a step of trial {training.job.trial} as a lane differs from the plain loop by {difference:.2g} "
                    "(relative): does the network draw random numbers, or keep tensors that are not registered as "
                    "buffers?"
                )


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _torch_state(training: Training) -> Tensor:
    state: Tensor = training.random_state["torch"]
    return state


def _plain_step(
    training: Training, batch: tuple[Tensor, ...], trained: Sequence[str], buffers: Sequence[str]
) -> list[float | Tensor | None]:
    """Loss, gradients and then buffers of the plain loop, on a copy of the network."""
    model, plain = training.model, copy.deepcopy(training.model)
    state = training.random_state
    training.model = plain.train()
    try:
        with training.own_randomness():
            loss = float(training.backward(batch))
    finally:
        training.model, training.random_state = model, state
    parameters = dict(plain.named_parameters())
    kept = dict(plain.named_buffers())
    return [loss, *(parameters[name].grad for name in trained), *(kept[name] for name in buffers)]


def _difference(values: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference, relative to the largest expected value of each tensor; infinite for other gaps.

    Gradients that are zero but for rounding (of a bias before BatchNorm) are seen in proportion to the largest of all.
    """
    largest = 0.0
    sizes = [float(torch.as_tensor(v).abs().max()) for v in expected if v is not None and torch.as_tensor(v).numel()]
    floor = 1e-2 * max((size for size in sizes if math.isfinite(size)), default=0.0) + 1e-30
    for value, right in zip(values, expected, strict=True):
        if value is None or right is None:
            if value is not right:
                return float("inf")
            continue
        value, right = torch.as_tensor(value, dtype=torch.float64), torch.as_tensor(right, dtype=torch.float64)
        if bool(torch.isfinite(right).all()):
            scale = max(float(right.abs().max()) if right.numel() else 0.0, floor)
            largest = max(largest, float((value - right).abs().max()) / scale if right.numel() else 0.0)
        elif not torch.equal(torch.isfinite(value), torch.isfinite(right)):
            return float("inf")
    return largest


def _explained(cause: Exception) -> str:
    """What vmap refused, in a line, with the way round where there is one."""
    text = str(cause)
    for words, advice in ADVICE.items():
        if words in text:
            return advice
    return f"{type(cause).__name__}: {text.splitlines()[0] if text else ''}"


RECURRENT = "a subclass of nn.RNN, nn.GRU, nn.LSTM or nn.LSTMCell cannot be a lane; hold one as a module instead"
KEPT = "the network changes its own attributes while it runs; register tensors as buffers, and keep counts out of it"
ADVICE = {
    "may have escaped": KEPT,
    "aten::rnn": RECURRENT,
    "aten::gru": RECURRENT,
    "aten::lstm": RECURRENT,
    ".item()": "the network or loss calls .item() or branches on a tensor; use torch.where, or leave it to the loop",
    "data-dependent control flow": "the network branches on the values of a tensor; use torch.where instead of `if`",
    "dynamic shape": "an operation makes a tensor whose size depends on values (a boolean mask, nonzero); use "
    "torch.where or multiply by the mask",
    "randomness": "the network draws random numbers other than by nn.Dropout; use nn.Dropout",
    "in-place": "an operation writes into a tensor that all lanes share; make a new tensor instead",
    "setup_context": "a custom autograd Function (or a full backward hook, which is one) has no vmap rule; give it "
    "setup_context and generate_vmap_rule = True",
}
