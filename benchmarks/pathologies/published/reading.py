"""What the published rules read off a run: accuracies, layers, and the rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from rheostat.diagnose.base import Curve, Observations
from rheostat.diagnose.shapes import last, measured


def accuracy(run: Observations, part: str) -> Curve:
    """The accuracy (E,) on a part of the data, "val" or "train"; all NaN where the task has none, as in regression.

    That on training data is of the fixed examples of the probe, so only after some epochs, unless it was reported.
    """
    for name in (part, "probe") if part == "train" else (part,):
        if f"{name}_accuracy" in run.curves:
            return run.curve(f"{name}_accuracy")
        if f"{name}_error" in run.curves:
            return 1 - run.curve(f"{name}_error")
    return run.curve("")


def by_epoch(run: Observations, measure: str) -> list[list[float]]:
    """The measure of every layer, in their order, at each epoch at which all of them are known."""
    curves = list(run.layers.get(measure, {}).values())
    if not curves:
        return []
    table = np.stack(curves, axis=1)  # (E, layers)
    return [[float(value) for value in row] for row in table[np.isfinite(table).all(1)]]


def at_end(run: Observations, measure: str) -> list[float]:
    """The measure of every layer when it was last known."""
    values = (last(curve) for curve in run.layers.get(measure, {}).values())
    return [value for value in values if not math.isnan(value)]


def learning_rate(run: Observations) -> float:
    """The highest rate that was used, else that of the configuration; NaN where neither is known."""
    _, rates = measured(run.curve("lr"))
    if len(rates):
        return float(rates.max())
    given = run.config.get("lr")
    return float(given) if isinstance(given, int | float) else math.nan


def ranked(causes: Iterable[str]) -> list[str]:
    """Each cause once, where it came first."""
    return list(dict.fromkeys(causes))
