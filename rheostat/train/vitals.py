"""What every trial lets us observe at next to no cost: losses within an epoch, and now and then a look inside.

With the untrained network: facts of the task (`Vitals.facts`).

After every epoch: `batch_loss_max`, `batch_loss_sd` and `batch_loss_autocorrelation` (lag 1) of the losses of its
batches; after the first (or first few, where epochs are short) also `batch_classes`, the mean entropy of the classes
in some batches as a share of that in the data.

After the epochs 1, 2, 4, 8, 16 ... and the last, from the update that ended it and one pass of a few
fixed training examples in evaluation mode: `probe_loss` and `probe_` before the name of each metric; of classes,
`probe_predicted`, how many it predicts for them, `probe_confidence` and `probe_wrong_confidence`, how probable it finds
its predictions, all and wrong ones, and `probe_sums_to_one`, the share of its outputs that are probabilities already.
Of each layer: `update_ratio/LAYER`, ||change|| / ||parameters|| of that update, `gradient_norm/LAYER`, unclipped,
`dead/LAYER`, the share of rectified units that are zero on all of those examples, and `saturated/LAYER`, that of tanh
and sigmoid units beyond 0.95 of their range.

Training is the same with and without it, bit for bit. What it costs: benchmarks/vitals.py.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rheostat.data.base import Padded
from rheostat.train import randomness
from rheostat.train.inside import own_parameters
from rheostat.train.task import Task, chunks, evaluating, few, judge, tensors_of
from rheostat.train.units import SATURATED

PROBE = 128  # training examples
FIRST_STEPS = (1, 2, 4, 8)  # whose batch losses are reported beside that of the untrained network
AT_ONCE, ROWS, COLUMNS = 100_000, 1000, 10_000  # targets, and rows and features of inputs, that facts are made of


def observed(epoch: int, last: int) -> bool:
    """Whether the network is looked into after this epoch: the powers of two, and the last.

    >>> [epoch for epoch in range(1, 41) if observed(epoch, 40)]
    [1, 2, 4, 8, 16, 32, 40]
    """
    return epoch == last or epoch & (epoch - 1) == 0


class Layers:
    """The parameters of a network by the layer that owns them, and what an update does to them."""

    def __init__(self, model: nn.Module) -> None:
        self.own = {name: list(own.values()) for name, own in own_parameters(model).items()}
        self._weights = [p for own in self.own.values() for p in own]
        self._before: list[Tensor] = []

    @torch.no_grad()
    def before_step(self) -> dict[str, float]:
        """`gradient_norm/LAYER` of the coming update; call it before anything clips the gradients."""
        self._before = [p.detach().clone() for p in self._weights]
        found = {}
        for name, own in self.own.items():
            norms = [p.grad.norm() for p in own if p.grad is not None]
            if norms:
                found[f"gradient_norm/{name}"] = float(torch.stack(norms).norm())
        return found

    @torch.no_grad()
    def after_step(self) -> dict[str, float]:
        """`update_ratio/LAYER` of the update since `before_step`; empty where that was not called."""
        if not self._before:
            return {}
        sizes = torch._foreach_norm(self._before)
        changes = torch._foreach_norm(torch._foreach_sub([p.detach() for p in self._weights], self._before))
        self._before = []
        found, place = {}, 0
        for name, own in self.own.items():
            size, change = (float(torch.stack(n[place : place + len(own)]).norm()) for n in (sizes, changes))
            place += len(own)
            if size:
                found[f"update_ratio/{name}"] = change / size
        return found


class Vitals:
    """Of one network in training."""

    def __init__(self, task: Task, model: nn.Module, device: torch.device) -> None:
        self._task, self._model, self._device = task, model, device
        self._layers = Layers(model)
        self._losses: list[float] = []
        self._inside: dict[str, float] = {}
        self._entropies: list[float] = []

    def facts(self) -> dict[str, float]:
        """Numbers of the task that do not change.

        `prior_loss` is the entropy of the classes (nats). Of numbers as inputs: `input_scale`, the decimal logarithm of
        the median deviation of a feature, `input_spread`, that of the ratio of the largest decile to the smallest,
        and `input_offset`, the largest mean in deviations.
        """
        task = self._task
        sizes = {"examples": _examples(task.train), "validation_examples": _examples(task.validation)}
        found = {name: float(size) for name, size in sizes.items() if size}
        if (counts := self._class_counts()) is not None:
            found |= {"classes": float((counts > 0).sum()), "prior_loss": _entropy(counts)}
        if isinstance(task.train, tuple):
            found |= _of_inputs(task.train[0])
        return found

    def _class_counts(self) -> Tensor | None:
        """How often each class, or token, is to be predicted in the training data; None where they are not known."""
        tensors = tensors_of(self._task.train)
        if self._task.loss not in ("cross_entropy", "tokens") or not tensors or tensors[-1].is_floating_point():
            return None
        return _counts(tensors[-1].flatten()[:AT_ONCE])

    # -- an epoch --------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        self._losses, self._inside, self._entropies = [], {}, []

    def see_targets(self, targets: Tensor) -> None:
        """Those of one of the first batches."""
        if self._task.loss in ("cross_entropy", "tokens") and not targets.is_floating_point():
            self._entropies.append(_entropy(_counts(targets)))

    def before_step(self) -> None:
        """Look at the coming update."""
        self._inside |= self._layers.before_step()

    def after_step(self, loss: float) -> None:
        self._losses.append(loss)
        self._inside |= self._layers.after_step()

    def end_epoch(self, look: bool) -> dict[str, float]:
        """What the epoch showed; with `look`, also what the network makes of the fixed examples."""
        found = of_batches(self._losses)
        if self._entropies and (counts := self._class_counts()) is not None:
            whole = _entropy(counts)
            found["batch_classes"] = statistics.fmean(self._entropies) / whole if whole else math.nan
        if look:
            found |= self._inside | self._look()
        return {name: value for name, value in found.items() if not math.isnan(value)}

    @torch.no_grad()
    def _look(self) -> dict[str, float]:
        data = few(self._task.train, PROBE) if not callable(self._task.train) else None
        if data is None:
            return {}
        watch = Activations(self._layers)
        pairs = []
        with evaluating(self._model), randomness.apart(), watch:
            for *inputs, target in chunks(data, PROBE):
                pairs.append((self._model(*(x.to(self._device) for x in inputs)), target.to(self._device)))
        found = {f"probe_{name}": value for name, value in judge(self._task, pairs).items()}
        if self._task.loss == "cross_entropy" and pairs[0][0].dim() == 2:
            outputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            found |= _of_classes(outputs, targets)
        return found | watch.found()


def _examples(data: Any) -> int:
    """How many, where the data are in memory."""
    return len(data[0]) if isinstance(data, tuple) else len(data) if isinstance(data, Padded) else 0


def _counts(targets: Tensor) -> Tensor:
    """How often each class is there; negative targets stand for none."""
    targets = targets.flatten().long()
    return torch.bincount(targets[targets >= 0])


def _entropy(counts: Tensor) -> float:
    """Of shares in proportion to these counts, in nats."""
    shares = counts[counts > 0].double()
    shares = shares / shares.sum()
    return float(-(shares * shares.log()).sum())


def _of_inputs(inputs: Tensor) -> dict[str, float]:
    """Of numbers (N, ...); features that do not vary are passed over."""
    if not inputs.is_floating_point() or inputs.dim() < 2:
        return {}
    rows = inputs[:ROWS].flatten(1)[:, :COLUMNS].double()
    deviations, means = rows.std(0), rows.mean(0).abs()
    varying = deviations > 1e-9 * deviations.max().clamp_min(1e-300)
    if len(rows) < 2 or not bool(varying.any()):
        return {}
    deviations, means = deviations[varying], means[varying]
    low, middle, high = torch.quantile(deviations, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).log10().tolist()
    return {"input_scale": middle, "input_spread": high - low, "input_offset": float((means / deviations).max())}


def _of_classes(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of scores (N, C) and classes (N,)."""
    confidence, predicted = outputs.softmax(1).max(1)
    wrong = predicted != targets
    sums = ((outputs.sum(1) - 1).abs() < 1e-3) & (outputs >= 0).all(1)
    return {
        "probe_predicted": float(len(predicted.unique())),
        "probe_confidence": float(confidence.mean()),
        "probe_wrong_confidence": float(confidence[wrong].mean()) if bool(wrong.any()) else math.nan,
        "probe_sums_to_one": float(sums.float().mean()),
    }


def of_batches(losses: Sequence[float]) -> dict[str, float]:
    """Of the batch losses of an epoch. The autocorrelation is that of neighbours, at most 1."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return {}
    found = {"batch_loss_max": max(finite)}
    if len(finite) < 4:
        return found
    mean = sum(finite) / len(finite)
    variance = sum((loss - mean) ** 2 for loss in finite) / len(finite)
    found["batch_loss_sd"] = math.sqrt(variance)
    if variance:
        together = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(finite))
        found["batch_loss_autocorrelation"] = together / (variance * len(finite))
    return found


RECTIFIERS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.threshold}
SQUASHERS = {  # what brings the range to -1 ... 1: times, plus
    torch.tanh: (1.0, 0.0),
    Tensor.tanh: (1.0, 0.0),
    F.tanh: (1.0, 0.0),
    torch.sigmoid: (2.0, -1.0),
    Tensor.sigmoid: (2.0, -1.0),
    F.sigmoid: (2.0, -1.0),
}
RECURRENT = ("rnn_tanh", "rnn_relu")  # of torch._VF; weights in a list


class Activations(TorchFunctionMode):
    """Watches activations in a pass; each counts to the last layer with a matrix before it.

    Lighter than `units.activity`, which sees more (gates, sizes) and costs a copy of the network.
    """

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self._layers = {id(p): name for name, own in layers.own.items() for p in own if p.dim() > 1}
        self._last, self._axis = "", -1
        self._alive: dict[str, Tensor] = {}
        self._saturated: dict[str, list[Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        kind = getattr(func, "__name__", "")
        if kind in RECURRENT:
            self._last, self._axis = self._layers.get(id(args[2][0]), self._last), -1
            self._seen(F.relu if kind == "rnn_relu" else torch.tanh, output[0])
        elif len(args) > 1 and id(args[1]) in self._layers:
            self._last, self._axis = self._layers[id(args[1])], 1 if kind.startswith("conv") else -1
        elif self._last and isinstance(output, Tensor):
            self._seen(func, output)
        return output

    def _seen(self, func: Any, output: Tensor) -> None:
        output = output.detach()
        if func in RECTIFIERS:
            axis = self._axis if output.dim() > 1 else 0
            alive = (output.movedim(axis, 0).flatten(1) != 0).any(1)
            known = self._alive.get(self._last)
            self._alive[self._last] = alive if known is None or len(known) != len(alive) else known | alive
        elif func in SQUASHERS:
            times, plus = SQUASHERS[func]
            share = ((output * times + plus).abs() > SATURATED).float().mean()
            self._saturated.setdefault(self._last, []).append(share)

    def found(self) -> dict[str, float]:
        """`dead/LAYER` and `saturated/LAYER`."""
        dead = {f"dead/{name}": 1 - float(alive.float().mean()) for name, alive in self._alive.items()}
        saturated = {f"saturated/{name}": float(torch.stack(s).mean()) for name, s in self._saturated.items()}
        return dead | saturated
