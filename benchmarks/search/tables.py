"""Tables of measured learning curves, made into functions of a space.

A folder holds `meta.json`, which describes the hyperparameters, and one `.npz` for each task. What kind of table it is
shows in the names of its arrays, never in its own name.

A method asks for any point of the space; what trains is the nearest configuration of the table, in the unit cube, that
has not been trained yet, and the method is told which one that is, as one who trains a network knows its configuration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.space import Choice, Float, Hyperparameter, Int, Space
from rheostat.types import Config

MOST_EPOCHS = 60  # of a curve; longer ones are thinned
SAMPLES = 65_536  # of MNLI in an "epoch" of its replay: at least one validation lies in each

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Curves of validation, to be minimised, over a space.

    `points`: (rows, dimensions), in the unit cube. `curves`: for each row the values after epochs 1, 2, ...; one that
    ends in NaN diverged there. They may differ in length.
    """

    benchmark: str
    name: str
    space: Space
    points: Array
    curves: tuple[Array, ...]

    @cached_property
    def max_epochs(self) -> int:
        """The longest curve."""
        return max(len(curve) for curve in self.curves)

    @cached_property
    def full_training(self) -> float:
        """What one full training costs, in epochs: the mean length of the curves that were trained to their end."""
        return float(np.mean([len(curve) for curve in self.curves if np.isfinite(curve[-1])]))

    @cached_property
    def lowest(self) -> Array:
        """The lowest value of each row; infinity where there is none. Shape (rows,)."""
        return np.array([np.min(curve, initial=math.inf, where=np.isfinite(curve)) for curve in self.curves])

    @cached_property
    def best(self) -> float:
        return float(self.lowest.min())

    @cached_property
    def median(self) -> float:
        """The lowest value of a middling row, diverged ones among them."""
        return float(np.quantile(self.lowest, 0.5, method="lower"))

    def regret(self, value: float) -> float:
        """0 for the best of the table, 1 for its median."""
        return (value - self.best) / (self.median - self.best)

    def row(self, config: Config, taken: Collection[int] = ()) -> int:
        """The row nearest to a configuration, of those not taken; of all where all are.

        Categories that differ are a whole side of the cube apart.
        """
        difference = self.points - self.space.encode(config)
        difference[:, self._categorical] = difference[:, self._categorical] != 0
        distance = np.einsum("ij,ij->i", difference, difference)
        if len(taken) < len(distance):
            distance[list(taken)] = math.inf
        return int(np.argmin(distance))

    def config(self, row: int) -> Config:
        """The configuration of a row."""
        return self.space.decode(self.points[row])

    @cached_property
    def _categorical(self) -> NDArray[np.bool_]:
        return np.array([isinstance(part, Choice) for part in self.space.values()])


def read_tables(folder: Path) -> Iterator[Table]:
    """Every table of a folder, or of the folders in it. Raises ValueError for arrays that are of no known kind."""
    if not (folder / "meta.json").exists():
        inner = sorted(path.parent for path in folder.glob("*/meta.json"))
        if not inner:
            raise ValueError(f"{folder}: no meta.json here, nor in the folders in it.")
        for path in inner:
            yield from read_tables(path)
        return
    meta = json.loads((folder / "meta.json").read_text())
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
        for names, read in KINDS.items():
            if set(names) <= set(held):
                space, points, curves = read(held, meta, path.stem)
                yield Table(folder.name, path.stem, space, points, tuple(curves))
                break
        else:
            raise ValueError(f"{path}: arrays {sorted(held)} are of no kind known here: {[*KINDS]}.")


Read = tuple[Space, Array, Sequence[Array]]


def _losses(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
    """TaskSet: the loss every 200 steps; the first is that of the untrained network."""
    space, points = _space(meta["hyperparameters"], arrays["X"])
    return space, points, [_until_nan(curve) for curve in arrays["valid_loss"][:, 1:]]


def _surrogate(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
    """LCBench: accuracy in percent."""
    space, points = _space(meta["hyperparameters"], arrays["X"])
    return space, points, [_until_nan(1 - curve / 100) for curve in arrays["val_accuracy"]]


def _imagenet(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
    """OPDA on ImageNet: each run has its own number of epochs."""
    space, points = _space(_family(meta, name), arrays["X"])
    curves = []
    for top_1, n, diverged in zip(arrays["top_1"], arrays["n_points"], arrays["nan_train_loss"], strict=True):
        curve = 1 - top_1[:n].astype(float)
        curves.append(_until_nan(np.append(curve, math.nan) if diverged or n == 0 else curve))
    return space, points, _thinned(curves)


def _fine_tuning(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
    """OPDA on MNLI: validated every 1,000 steps; an epoch here is so many examples seen."""
    space, points = _space(_family(meta, name), arrays["X"])
    batch = [part["name"] for part in _family(meta, name)].index("train_batch_size")
    curves = []
    for row, n, steps, accuracy in zip(
        arrays["X"], arrays["n_points"], arrays["step"], arrays["acc_matched"], strict=True
    ):
        seen = steps[:n] * row[batch]
        epochs = SAMPLES * np.arange(1, max(int(seen[-1] // SAMPLES), 1) + 1)
        last = np.maximum(np.searchsorted(seen, epochs, side="right") - 1, 0)
        curves.append(1 - accuracy[last].astype(float))
        curves[-1][-1] = 1 - float(accuracy[n - 1])  # the end of the run
    return space, points, curves


def _algorithms(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
    """AlgoPerf: training algorithms at a few points each, the first repetition of each; time is the budget."""
    task = meta["tasks"][name]
    names = [str(submission) for submission in arrays["submission"]]
    trials = sorted({int(trial) for trial in arrays["trial"]})
    space = Space(submission=Choice(names), point=Choice(trials))
    times = np.arange(1, MOST_EPOCHS + 1) / MOST_EPOCHS * float(np.nanmax(arrays["submission_time"]))
    points, curves, met = [], [], set()
    for i in np.argsort(arrays["study"], kind="stable"):
        arm = (int(arrays["submission_idx"][i]), int(arrays["trial"][i]))
        n = int(arrays["n_points"][i])
        if arm in met or n == 0:
            continue
        met.add(arm)
        value = arrays["valid_metric"][i, :n].astype(float)
        value = 1 - value if task["direction"] == "max" else value
        seconds = arrays["submission_time"][i, :n]
        last = np.maximum(np.searchsorted(seconds, times, side="right") - 1, 0)
        last = last[: int(np.searchsorted(times, seconds[-1])) + 1]
        points.append(space.encode(Config(submission=names[arm[0]], point=arm[1])))
        curves.append(_until_nan(value[last]))
    return space, np.array(points), curves


def _optimisers(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
    """DeepOBS: three optimisers on a grid of learning rates, one seed; the first value is before training."""
    grid = arrays["seed"] == arrays["seed"].min()
    space, points = _space(meta["hyperparameters"], arrays["X"][grid])
    values = 1 - arrays["test_accuracies"] if "test_accuracies" in arrays else arrays["test_losses"]
    curves = []
    for curve, loss in zip(values[grid, 1:], arrays["test_losses"][grid, 1:], strict=True):
        curves.append(_until_nan(np.where(np.isfinite(loss), curve, math.nan)))
    return space, points, _thinned(curves)


def _finals(value: str) -> Callable[[Mapping[str, Any], Mapping[str, Any], str], Read]:
    """Final values on a complete grid: every trial is one epoch. The mean of the repetitions."""

    def read(arrays: Mapping[str, Any], meta: Mapping[str, Any], name: str) -> Read:
        space, points = _space(meta["hyperparameters"], arrays["X_index"])
        sign, shift = (-1, 1) if meta["direction"] == "max" else (1, 0)
        mean = shift + sign * arrays[value].astype(float).mean(axis=1)
        return space, points, list(mean[:, None])

    return read


KINDS: Mapping[tuple[str, ...], Callable[[Mapping[str, Any], Mapping[str, Any], str], Read]] = {
    ("X", "step", "valid_loss"): _losses,
    ("X", "epoch", "val_accuracy"): _surrogate,
    ("X", "n_points", "top_1"): _imagenet,
    ("X", "n_points", "acc_matched"): _fine_tuning,
    ("submission_idx", "valid_metric"): _algorithms,
    ("X", "seed", "test_losses"): _optimisers,
    ("X_index", "val_loss"): _finals("val_loss"),
    ("X_index", "val_acc"): _finals("val_acc"),
}


def _family(meta: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The hyperparameters of a table, where `meta.json` has them by the beginning of its name."""
    parts = meta["hyperparameters"]
    return parts if isinstance(parts, list) else next(v for k, v in parts.items() if name.startswith(k.rstrip("*")))


def _space(described: Sequence[Mapping[str, Any]], rows: NDArray[Any]) -> tuple[Space, Array]:
    """The space, and the rows as points of its unit cube."""
    parts: dict[str, Hyperparameter] = {}
    points = np.empty(rows.shape)
    for j, hp in enumerate(described):
        column = rows[:, j].astype(float)
        if hp["type"] == "ordinal":  # by their order
            part: Hyperparameter = Int(0, len(hp["choices"]) - 1)
        elif hp["type"] == "categorical":
            part = Choice(list(hp["choices"]))
            if not isinstance(hp["choices"][0], str):
                column = np.searchsorted(np.sort(hp["choices"]), column)
                part = Choice(sorted(hp["choices"]))
            column = (column + 0.5) / len(part.values)
        else:
            low, high = hp["low"], column.max() if hp["high"] is None else hp["high"]
            kind = Int if hp["type"] == "int" else Float
            part = kind(low, high, log=bool(hp.get("log")))
        parts[hp["name"]] = part
        points[:, j] = column if isinstance(part, Choice) else [part.encode(value) for value in column]
    return Space(parts), points


def _until_nan(curve: NDArray[Any]) -> Array:
    """The curve to its first value that is not finite, which becomes NaN."""
    bad = np.flatnonzero(~np.isfinite(curve))
    cut = np.array(curve[: bad[0] + 1] if len(bad) else curve, dtype=float)
    if len(bad):
        cut[-1] = math.nan
    return cut


def _thinned(curves: Sequence[Array]) -> list[Array]:
    """Every n-th value, so that the longest has at most `MOST_EPOCHS`; the last one is kept."""
    stride = -(-max(len(curve) for curve in curves) // MOST_EPOCHS)
    return [curve[np.unique([*range(stride - 1, len(curve), stride), len(curve) - 1])] for curve in curves]
