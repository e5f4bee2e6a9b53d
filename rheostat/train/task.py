"""A task: what to train, on what, and how it is judged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rheostat.data.base import PADDING, Padded, TokenStream
from rheostat.errors import DataError, TaskError, unknown
from rheostat.train.hooks import Hook
from rheostat.train.optimizers import Group
from rheostat.types import Config

Tensors = tuple[Tensor, ...]
Data = Tensors | Padded | TokenStream | DataLoader[Any]
Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor | float]
Score = Callable[[nn.Module, Data, torch.device], float]

# How much is judged at a time: numbers of inputs, rows of padded sequences, rows of a stream side by side.
CHUNK_VALUES, CHUNK, CHUNK_SEQUENCES, STREAM_ROWS = 2**19, 4096, 128, 32


def token_loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats per token. `outputs` (B, T, V) scores, `targets` (B, T) tokens."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), label_smoothing=label_smoothing)


def sentence_loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The same over the tokens of sentences, without PADDING."""
    return F.cross_entropy(
        outputs.flatten(0, 1), targets.flatten(), ignore_index=PADDING, label_smoothing=label_smoothing
    )


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "tokens": token_loss,
    "sentences": sentence_loss,
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


MAXIMISED = ("val_accuracy", "val_bleu")


def no_hooks(config: Config) -> Sequence[Hook]:
    """The hooks of a task that has none of its own."""
    return ()


def one_group(model: nn.Module, config: Config) -> Sequence[Group]:
    """All parameters, trained alike."""
    return (Group(tuple(model.parameters())),)


@dataclass(frozen=True)
class Task:
    """A model builder with the data to train and judge it on.

    `model` makes the network for a configuration. `train`, `validation` and `test` are tuples of tensors of
    equal length, the targets last, `Padded` sequences, a `TokenStream`, or a DataLoader that yields tuples; `train`
    may also be a function from the configuration to a DataLoader. `loss` is a name or a function of (outputs,
    targets) that gives the mean over the examples; `tokens` and `sentences` give it per token. `metrics` are names,
    or functions of the outputs and targets of the whole validation set; `scores` are functions of the network, the
    data and the device, such as the BLEU of what it translates. Each is reported with `val_` before its name.
    `metric` is the one to tune for. `groups` gives the parameters that are trained, in groups that may have a
    learning rate of their own. Test data are never looked at until a study is over, and then only through `evaluate`.

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
    scores: Mapping[str, Score] = field(default_factory=dict)
    groups: Callable[[nn.Module, Config], Sequence[Group]] = one_group
    validate_every_steps: int | None = None  # also within an epoch
    observe: bool = True  # look into the network now and then (train/vitals.py), for its diagnosis
    device: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise TaskError(unknown("loss", self.loss, LOSSES))
        if not isinstance(self.metrics, Mapping):
            for name in self.metrics:
                if name not in METRICS:
                    raise TaskError(unknown("metric", name, METRICS) + " Or give {name: function}.")
            object.__setattr__(self, "metrics", {name: METRICS[name] for name in self.metrics})
        if both := set(self.metrics) & set(self.scores):
            raise TaskError(f"{min(both)!r} is the name of a metric and of a score: rename one of them.")
        known = ["val_loss", "train_loss", *(f"val_{name}" for name in (*self.metrics, *self.scores))]
        if not self.metric:
            object.__setattr__(self, "metric", known[2] if len(known) > 2 else "val_loss")
        if self.metric not in known:
            raise TaskError(unknown("metric to tune for", self.metric, known))
        if not self.direction:
            object.__setattr__(self, "direction", "maximize" if self.metric in MAXIMISED else "minimize")
        if self.direction not in ("minimize", "maximize"):
            raise TaskError(unknown("direction", self.direction, ("minimize", "maximize")))
        if self.validate_every_steps is not None and self.validate_every_steps < 1:
            raise TaskError(f"validate_every_steps={self.validate_every_steps}: give a whole number from 1, or None.")
        for name in ("train", "validation", "test"):
            if isinstance(data := getattr(self, name), tuple | list):
                object.__setattr__(self, name, _checked(name, tuple(data)))
            elif isinstance(data, Padded):
                _check_padded(name, data)
            elif isinstance(data, TokenStream) and len(data) < 2:
                raise DataError(f"{name}: a text of {len(data)} token(s) holds nothing to be predicted.")

    def loss_function(self, config: Mapping[str, Any]) -> Loss:
        """The training loss, with the configuration's label smoothing where it has any."""
        smoothing = config.get("label_smoothing", 0.0)
        if not smoothing:
            return self.plain_loss
        if self.loss not in ("cross_entropy", "tokens", "sentences"):
            raise TaskError(f"label_smoothing={smoothing!r} needs loss='cross_entropy', not {self.loss!r}.")
        if not 0 <= smoothing < 1:
            raise TaskError(f"label_smoothing={smoothing!r} must be at least 0 and less than 1.")
        smoothed: Callable[..., Tensor] = LOSSES[self.loss]
        return lambda outputs, targets: smoothed(outputs, targets, label_smoothing=smoothing)

    def weight(self, targets: Tensor) -> int:
        """What the mean loss of a batch is the mean over: its examples, or the tokens in them."""
        if self.loss == "sentences":
            return int((targets != PADDING).sum())
        return targets.numel() if self.loss == "tokens" else len(targets)

    @property
    def plain_loss(self) -> Loss:
        return LOSSES[self.loss] if isinstance(self.loss, str) else self.loss

    @property
    def metric_functions(self) -> Mapping[str, Metric]:
        assert isinstance(self.metrics, Mapping)
        return self.metrics

    def data_bytes(self) -> int:
        """The size of the data in memory."""
        parts = [tensors_of(data) for data in (self.train, self.validation, self.test)]
        return sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part)

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the data in memory; empty where a DataLoader hides it."""
        digest, seen = hashlib.sha256(), False
        for data in (self.train, self.validation, self.test):
            for tensor in tensors_of(data):
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
                seen = True
        return digest.hexdigest()[:12] if seen else ""


def tensors_of(data: object) -> Tensors:
    """The tensors that data in memory consist of; none for a DataLoader or a function."""
    if isinstance(data, Padded):
        return data.tensors
    if isinstance(data, TokenStream):
        return (data.tokens,)
    return data if isinstance(data, tuple) else ()


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode; its mode is put back."""
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)


def evaluate(task: Task, model: nn.Module, data: Data, device: torch.device, chunk: int = CHUNK) -> dict[str, float]:
    """`loss`, each metric and each score over the whole of `data`, in evaluation mode; the mode is put back.

    Tensors go through the network at most `chunk` examples at a time.
    """
    with torch.no_grad(), evaluating(model):
        results = judge(
            task,
            (
                (model(*(x.to(device, non_blocking=True) for x in inputs)), target.to(device, non_blocking=True))
                for *inputs, target in chunks(data, chunk)
            ),
        )
    return results | scored(task, model, data, device)


@torch.no_grad()
def scored(task: Task, model: nn.Module, data: Data, device: torch.device) -> dict[str, float]:
    """Each score of a network, in evaluation mode; the model's mode is put back."""
    if not task.scores:
        return {}
    with evaluating(model):
        return {name: float(score(model, data, device)) for name, score in task.scores.items()}


@torch.no_grad()
def judge(task: Task, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """`loss` and each metric over pairs of outputs and targets (n, ...), together the whole of some data."""
    outputs, targets, total, examples = [], [], 0.0, 0
    for output, target in pairs:
        weight = task.weight(target)
        total += float(task.plain_loss(output, target)) * weight
        examples += weight
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
    """Data in pieces, inputs and targets: the batches of a DataLoader, or at most `size` examples at a time."""
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Padded):
        by_length = lengths(data).argsort(stable=True)
        return (trimmed(data.tensors, rows) for rows in by_length.split(min(size, CHUNK_SEQUENCES)))
    if isinstance(data, TokenStream):
        rows = max(min(STREAM_ROWS, (len(data) - 1) // data.length), 1)
        return side_by_side(data, rows, 0, (len(data) - 1) // rows)
    largest = max(math.prod(tensor.shape[1:]) for tensor in data)
    size = min(size, max(CHUNK_VALUES // max(largest, 1), 1))
    if len(data[0]) <= size:
        return (data,)
    return zip(*(tensor.split(size) for tensor in data), strict=True)


def few(data: Data, rows: int = 8) -> Data | None:
    """Some of the data, to try a network on; None for a DataLoader."""
    if isinstance(data, Padded):
        return Padded(tuple(tensor[:rows] for tensor in data.tensors), data.texts[:rows])
    if isinstance(data, TokenStream):
        return replace(data, tokens=data.tokens[: rows * data.length + 1])
    return tuple(tensor[:rows] for tensor in data) if isinstance(data, tuple) else None


def lengths(data: Padded) -> Tensor:
    """Of each row (N,), how many tokens its sequences have together, without PADDING at their ends."""
    places = [_last(tensor) for tensor in data.tensors if tensor.dim() == 2]
    return torch.stack(places).sum(0)


def trimmed(tensors: Tensors, rows: Tensor) -> Tensors:
    """Some rows of padded sequences, without the columns that are padding in all of them."""
    taken = [tensor.index_select(0, rows) for tensor in tensors]
    longest = [max(int(_last(tensor).max()), 1) if tensor.dim() == 2 else 0 for tensor in taken]
    return tuple(
        tensor[:, :length] if tensor.dim() == 2 else tensor for tensor, length in zip(taken, longest, strict=True)
    )


def _last(tokens: Tensor) -> Tensor:
    """The number of tokens (N,) in each row of (N, L)."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return torch.where(tokens != PADDING, places, 0).amax(1)


def side_by_side(stream: TokenStream, rows: int, start: int, row_length: int) -> Iterator[Tensors]:
    """A text from `start` as so many rows of `row_length` tokens, piece by piece.

    Each piece is tokens (rows, T), whether each row begins anew (rows,) bool, and the tokens that follow (rows, T).
    """
    for place in range(0, row_length, stream.length):
        wide = min(stream.length, row_length - place)
        starts = [start + row * row_length + place for row in range(rows)]
        piece = torch.stack([stream.tokens[first : first + wide + 1] for first in starts]).long()
        anew = torch.full((rows,), place == 0, device=piece.device)
        yield piece[:, :-1], anew, piece[:, 1:]


def _check_padded(name: str, data: Padded) -> None:
    rows = {len(tensor) for tensor in data.tensors}
    if len(data.tensors) < 2 or len(rows) != 1 or 0 in rows:
        shapes = [tuple(tensor.shape) for tensor in data.tensors]
        raise DataError(f"{name}: padded sequences need tensors (N, L) and targets of one length; given {shapes}.")


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
