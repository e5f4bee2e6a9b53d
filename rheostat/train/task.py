"""A task: what to train, on what, and how it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rheostat.errors import DataError, TaskError, unknown
from rheostat.train.hooks import Hook
from rheostat.types import Config

Tensors = tuple[Tensor, ...]
Data = Tensors | DataLoader[Any]
Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor | float]

LOSSES: Mapping[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.smooth_l1_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of wrong classes. `outputs` (N, C) scores, `targets` (N,) classes."""
    return (outputs.argmax(1) != targets).float().mean()


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right classes. `outputs` (N, C) scores, `targets` (N,) classes."""
    return (outputs.argmax(1) == targets).float().mean()


METRICS: Mapping[str, Metric] = {
    "error": error,
    "accuracy": accuracy,
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "rmse": lambda outputs, targets: F.mse_loss(outputs, targets).sqrt(),
}


def no_hooks(config: Config) -> Sequence[Hook]:
    """The hooks of a task that has none of its own."""
    return ()


@dataclass(frozen=True)
class Task:
    """A model builder with the data to train and judge it on.

    `model` makes the network for a configuration. `train`, `validation` and `test` are tuples of tensors of
    equal length, the targets last, or a DataLoader that yields such tuples; `train` may also be a function from
    the configuration to a DataLoader. `loss` is a name or a function of (outputs, targets) that gives the mean
    over the examples. `metrics` are names, or functions of the outputs and targets of the whole validation set;
    each is reported with `val_` before its name. `metric` is the one to tune for. Test data are never looked at
    until a study is over, and then only through `evaluate`.

    Raises TaskError or DataError when something of this cannot work.
    """

    model: Callable[[Config], nn.Module]
    train: Data | Callable[[Config], DataLoader[Any]]
    validation: Data
    loss: str | Loss = "cross_entropy"
    metrics: Sequence[str] | Mapping[str, Metric] = ("error",)
    metric: str = ""  # the first of the metrics
    direction: str = ""  # minimize, but for accuracy
    test: Data | None = None
    name: str = "task"
    hooks: Callable[[Config], Sequence[Hook]] = no_hooks
    validate_every_steps: int | None = None  # also within an epoch
    device: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise TaskError(unknown("loss", self.loss, LOSSES))
        if not isinstance(self.metrics, Mapping):
            for name in self.metrics:
                if name not in METRICS:
                    raise TaskError(unknown("metric", name, METRICS) + " Or give {name: function}.")
            object.__setattr__(self, "metrics", {name: METRICS[name] for name in self.metrics})
        known = ["val_loss", "train_loss", *(f"val_{name}" for name in self.metrics)]
        if not self.metric:
            object.__setattr__(self, "metric", known[2] if len(known) > 2 else "val_loss")
        if self.metric not in known:
            raise TaskError(unknown("metric to tune for", self.metric, known))
        if not self.direction:
            object.__setattr__(self, "direction", "maximize" if self.metric == "val_accuracy" else "minimize")
        if self.direction not in ("minimize", "maximize"):
            raise TaskError(unknown("direction", self.direction, ("minimize", "maximize")))
        if self.validate_every_steps is not None and self.validate_every_steps < 1:
            raise TaskError(f"validate_every_steps={self.validate_every_steps}: give a whole number from 1, or None.")
        for name in ("train", "validation", "test"):
            if isinstance(data := getattr(self, name), tuple | list):
                object.__setattr__(self, name, _checked(name, tuple(data)))

    def loss_function(self, config: Mapping[str, Any]) -> Loss:
        """The training loss, with the configuration's label smoothing where it has any."""
        smoothing = config.get("label_smoothing", 0.0)
        if not smoothing:
            return self.plain_loss
        if self.loss != "cross_entropy":
            raise TaskError(f"label_smoothing={smoothing!r} needs loss='cross_entropy', not {self.loss!r}.")
        if not 0 <= smoothing < 1:
            raise TaskError(f"label_smoothing={smoothing!r} must be at least 0 and less than 1.")
        return lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    @property
    def plain_loss(self) -> Loss:
        return LOSSES[self.loss] if isinstance(self.loss, str) else self.loss

    @property
    def metric_functions(self) -> Mapping[str, Metric]:
        assert isinstance(self.metrics, Mapping)
        return self.metrics

    def data_bytes(self) -> int:
        """The size of the data in memory."""
        parts = [part for part in (self.train, self.validation, self.test) if isinstance(part, tuple)]
        return sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part)

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the data in memory; empty where a DataLoader hides it."""
        digest, seen = hashlib.sha256(), False
        for data in (self.train, self.validation, self.test):
            for tensor in data if isinstance(data, tuple) else ():
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
                seen = True
        return digest.hexdigest()[:12] if seen else ""


def pick_device(name: str) -> torch.device:
    """`auto` is the accelerator where there is one, else the CPU. Raises TaskError for an unknown one."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as cause:
        raise TaskError(
            f"device={name!r} cannot be used here: {str(cause).splitlines()[0]}. Try auto or cpu."
        ) from None


def evaluate(task: Task, model: nn.Module, data: Data, device: torch.device, chunk: int = 4096) -> dict[str, float]:
    """`loss` and each metric over the whole of `data`, in evaluation mode; the model's mode is put back.

    Tensors go through the network `chunk` examples at a time.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        results = judge(
            task,
            (
                (model(*(x.to(device, non_blocking=True) for x in inputs)), target.to(device, non_blocking=True))
                for *inputs, target in chunks(data, chunk)
            ),
        )
    model.train(was_training)
    return results


@torch.no_grad()
def judge(task: Task, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """`loss` and each metric over pairs of outputs and targets (n, ...), together the whole of some data."""
    outputs, targets, total, examples = [], [], 0.0, 0
    for output, target in pairs:
        total += float(task.plain_loss(output, target)) * len(target)
        examples += len(target)
        if task.metrics:
            outputs.append(output)
            targets.append(target)
    results = {"loss": total / max(examples, 1)}
    if task.metrics:
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        target = targets[0] if len(targets) == 1 else torch.cat(targets)
        results |= {name: float(metric(output, target)) for name, metric in task.metric_functions.items()}
    return results


def chunks(data: Data, size: int) -> Iterable[Sequence[Tensor]]:
    """The batches of a DataLoader, or tensors `size` examples at a time."""
    if isinstance(data, DataLoader):
        return data
    if len(data[0]) <= size:
        return (data,)
    return zip(*(tensor.split(size) for tensor in data), strict=True)


def _checked(name: str, data: Tensors) -> Tensors:
    tensors = tuple(torch.as_tensor(part) for part in data)
    if len(tensors) < 2:
        raise DataError(f"{name}: give a tuple (inputs, targets) or (inputs, more inputs, targets).")
    lengths = [len(tensor) if tensor.dim() else 0 for tensor in tensors]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise DataError(f"{name}: its tensors have lengths {lengths}; they must be equal and not zero.")
    for position, tensor in enumerate(tensors):
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
            row = int((~finite).reshape(len(tensor), -1).any(1).nonzero()[0])
            bad = int((~finite).sum())
            raise DataError(
                f"{name}: tensor {position} holds {bad} NaN or infinite value(s), the first in row {row}. "
                "Remove or fill them before training."
            )
    return tensors
