"""Shapes of curves in numbers: what detectors and the classifier look at.

A value counts as measured where it is finite and below `HUGE`; the others are passed over. Where a curve has too
few values, a number is NaN and an epoch is 0, so that no comparison with it holds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rheostat.diagnose.base import Curve, Observations
from rheostat.types import Status

HUGE = 1e30  # a loss beyond this is lost
SMALL = 1e-12
EPOCHS = np.arange(1.0, 1001.0)
EPOCHS.flags.writeable = False


def measured(curve: Curve) -> tuple[Curve, Curve]:
    """The epochs (from 1) at which a curve was measured, and its values there; both (N,)."""
    kept: NDArray[np.bool_] = np.abs(curve) < HUGE  # false for NaN
    places = kept.nonzero()[0]
    if len(places) == len(curve) <= len(EPOCHS):  # most curves, and this is called a hundred times for a run
        return EPOCHS[: len(curve)], curve
    return places.astype(np.float64) + 1, curve[places]


def together(curve: Curve, other: Curve) -> tuple[Curve, Curve, Curve]:
    """The epochs at which both curves were measured, and the values of each there; all (N,)."""
    shared = min(len(curve), len(other))
    curve, other = curve[:shared], other[:shared]
    kept: NDArray[np.bool_] = (np.abs(curve) < HUGE) & (np.abs(other) < HUGE)
    return kept.nonzero()[0].astype(np.float64) + 1, curve[kept], other[kept]


def middle(values: Curve) -> float:
    """The median; much quicker for few values than numpy's. Raises IndexError for none."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half]) if len(values) % 2 else float(ordered[half - 1] + ordered[half]) / 2


def first(curve: Curve) -> float:
    """The first value that was measured."""
    _, values = measured(curve)
    return float(values[0]) if len(values) else math.nan


def last(curve: Curve) -> float:
    """The last value that was measured."""
    _, values = measured(curve)
    return float(values[-1]) if len(values) else math.nan


def lowest(curve: Curve) -> float:
    """The lowest value."""
    _, values = measured(curve)
    return float(values.min()) if len(values) else math.nan


def best_epoch(curve: Curve) -> int:
    """The epoch of the lowest value, from 1; 0 where there is none."""
    epochs, values = measured(curve)
    return int(epochs[values.argmin()]) if len(values) else 0


def highest_epoch(curve: Curve) -> int:
    """The epoch of the highest value, from 1; 0 where there is none."""
    epochs, values = measured(curve)
    return int(epochs[values.argmax()]) if len(values) else 0


def ratio(value: float, other: float) -> float:
    """`value` over `other`; NaN where `other` is 0 or either is NaN."""
    return value / other if abs(other) > SMALL else math.nan


def relative_steps(curve: Curve) -> tuple[Curve, Curve]:
    """The epochs after which a value was compared with the one before it, and its relative change; both (N - 1,).

    The change is in shares of the earlier value's size, so 0.1 is a rise by 10 %.
    """
    epochs, values = measured(curve)
    return epochs[1:], np.diff(values) / np.maximum(np.abs(values[:-1]), SMALL)


def rises(curve: Curve, margin: float = 0.02, least: float = 0.0) -> float:
    """The share of epochs in which a curve rose by more than `margin` of its value, and by more than `least`."""
    _, steps = relative_steps(curve)
    _, values = measured(curve)
    return float(((steps > margin) & (np.diff(values) > least)).mean()) if len(steps) else math.nan


def first_rise(curve: Curve, margin: float = 0.02, least: float = 0.0) -> int:
    """The first epoch that ended higher than the one before it, as `rises` counts them; 0 where none did."""
    epochs, steps = relative_steps(curve)
    _, values = measured(curve)
    up = (steps > margin) & (np.diff(values) > least)
    return int(epochs[up.argmax()]) if up.any() else 0


def highest_rise(curve: Curve) -> float:
    """The largest rise between two successive values, as a share of the earlier one."""
    _, steps = relative_steps(curve)
    return float(steps.max()) if len(steps) else math.nan


def smooth(curve: Curve, width: int = 5) -> Curve:
    """The running medians of the measured values, `width` (odd) at a time; (N,). The end values stand in beyond."""
    _, values = measured(curve)
    if not len(values):
        return values
    ends = np.repeat(values[[0, -1]], width // 2).reshape(2, -1)
    windows = sliding_window_view(np.concatenate([ends[0], values, ends[1]]), width)
    return np.sort(windows, axis=1)[:, width // 2]


def last_fall(curve: Curve, part: float = 0.25) -> float:
    """How far a curve fell over its last `part`, as a share of where that began; negative where it rose.

    Both ends are medians of three values where there are eight or more.
    """
    _, values = measured(curve)
    start = len(values) - 1 - max(round(part * len(values)), 1)
    if start < 0:
        return math.nan
    long = len(values) >= 8
    before = middle(values[max(start - 1, 0) : start + 2]) if long else float(values[start])
    after = middle(values[-3:]) if long else float(values[-1])
    return (before - after) / max(abs(before), SMALL)


def total_fall(curve: Curve, start: float = math.nan) -> float:
    """How far a curve fell to its lowest value, as a share of `start`, by default its first value."""
    start = first(curve) if math.isnan(start) else start
    return (start - lowest(curve)) / max(abs(start), SMALL)


def log_slope(curve: Curve, part: float = 1.0) -> float:
    """The slope of the logarithm of a positive curve over the last `part` of its epochs, per epoch.

    Times the number of epochs, it is about the relative fall over them.
    """
    epochs, values = measured(curve)
    kept = (values > SMALL) & (epochs > len(curve) * (1 - part))
    if kept.sum() < 2:
        return math.nan
    x, y = epochs[kept] - epochs[kept].mean(), np.log(values[kept])
    return float((x * y).sum() / (x * x).sum())


def noise(curve: Curve) -> float:
    """How much a curve jitters from epoch to epoch, as a share of its median size.

    The standard deviation of independent noise on a smooth curve, from the median of its second differences:
    their variance is six times that of the noise, and 0.6745 is the median of a standard normal's size.
    """
    _, values = measured(curve)
    if len(values) < 4:
        return math.nan
    jitter = middle(np.abs(np.diff(values, 2))) / 0.6745 / math.sqrt(6)
    return jitter / max(middle(np.abs(values)), SMALL)


def rise_after_best(curve: Curve) -> float:
    """How far above its lowest value a curve ends, as a share of that; the end is a median of up to three values."""
    _, values = measured(curve)
    if not len(values):
        return math.nan
    tail = values[values.argmin() :][-3:]
    return (middle(tail) - float(values.min())) / max(abs(float(values.min())), SMALL)


def monotone(curve: Curve) -> float:
    """The fall of a curve as a share of all its movement: 1 falls only, 0 ends where it began, -1 rises only."""
    _, values = measured(curve)
    movement = float(np.abs(np.diff(values)).sum())
    return float(values[0] - values[-1]) / movement if movement > SMALL else math.nan


def onset(flags: NDArray[np.bool_]) -> int:
    """Where the unbroken row of true values at the end of `flags` begins; their number where there is none.

    >>> onset(np.array([True, False, True, True]))
    2
    """
    back = flags[::-1]
    return 0 if flags.all() else len(flags) - int((~back).argmax())


def untrained_loss(run: Observations) -> float:
    """The loss before the first update; NaN where it was not recorded."""
    value = run.first.get(0, math.nan)
    return value if abs(value) < HUGE else math.nan


def out_of_memory(run: Observations) -> bool:
    """Whether a run ended because memory ran out."""
    return run.status is Status.INFEASIBLE and "memory" in run.reason


def breakdown(run: Observations) -> int | None:
    """The epoch in which a loss ceased to be finite, 0 where that of the untrained network was not, None for none.

    A NaN at the end of a curve counts only where the trainer, which measures every epoch, or the status says so.
    """
    if 0 in run.first and not abs(run.first[0]) < HUGE:
        return 0
    infeasible = run.status is Status.INFEASIBLE and not out_of_memory(run)
    for name in ("train_loss", "val_loss"):
        curve = run.curves.get(name)
        if curve is None or not len(curve):
            continue
        good = np.abs(curve) < HUGE
        if (lost := ~good & ~np.isnan(curve)).any():
            return int(lost.argmax()) + 1
        count = int(good.sum())
        if (infeasible or run.facts) and count < len(curve) and good[:count].all() and (count or infeasible):
            return count + 1
    if any(not abs(value) < HUGE for value in run.first.values()):
        return 1
    return run.epochs + 1 if infeasible else None


def at_end_of_plan(run: Observations) -> bool:
    """Whether a run was trained as long as it was meant to be, or its plan is not known."""
    return not run.max_epochs or run.epochs >= run.max_epochs


def losses(run: Observations) -> tuple[str, Curve]:
    """What the training loss is called in words, and its curve; the validation loss where none was recorded.

    The latter ends at its lowest value: it may rise beyond that for another reason.
    """
    trained = run.curve("train_loss")
    if len(measured(trained)[0]):
        return "training loss", trained
    validation = run.curve("val_loss")
    return "validation loss", validation[: best_epoch(validation)]


def starting_loss(run: Observations) -> float:
    """The loss before the first update, else the first that was measured; NaN where it is not positive."""
    start = untrained_loss(run)
    start = start if start > 0 else first(losses(run)[1])
    return start if start > SMALL else math.nan


def worst_jump(run: Observations) -> tuple[float, int]:
    """The highest batch loss after one of the first updates, over the loss before them, and how many came before it.

    NaN and 0 where they were not recorded.
    """
    start = untrained_loss(run)
    later = {step: value for step, value in run.first.items() if step > 0 and abs(value) < HUGE}
    if not later or math.isnan(start):
        return math.nan, 0
    step = max(later, key=lambda s: later[s])
    return ratio(later[step], start), step


def worst_layer(run: Observations, measure: str, least: float) -> tuple[str, float, int]:
    """The layer in which a measure is highest, its highest value, and the epoch at which it first exceeded `least`.

    The epoch is 0 where none did.
    """
    worst = ("", math.nan, 0)
    for layer, curve in run.layers.get(measure, {}).items():
        epochs, values = measured(curve)
        if len(values) and not values.max() <= worst[1]:
            above = values > least
            worst = layer, float(values.max()), int(epochs[above.argmax()]) if above.any() else 0
    return worst


def typical(run: Observations, measure: str) -> dict[str, float]:
    """By layer, in order: the median of a measure over the epochs at which it was observed."""
    found = {}
    for layer, curve in run.layers.get(measure, {}).items():
        _, values = measured(curve)
        if len(values):
            found[layer] = middle(values)
    return found
