"""Several objectives: which points no other dominates, and how much of the space they dominate. All are minimised."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SettingError
from rheostat.types import Status, TrialRecord

Array = NDArray[np.float64]


def non_dominated(points: Array) -> NDArray[np.bool_]:
    """Of each of the points (n, m), whether no other is as good in all objectives and better in one: (n,).

    Of points that are equal all are kept, or none.
    """
    kept = np.ones(len(points), dtype=np.bool_)
    order = np.lexsort(points.T[::-1]).tolist() if len(points) else []  # in it, who dominates comes first
    for i in order:
        if kept[i]:
            kept &= ~((points >= points[i]).all(axis=1) & (points > points[i]).any(axis=1))
    return kept


def front(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that no other dominates, in order of number.

    Who diverged, failed, breaks a limit, or lacks the measure of an objective is not among them.
    """
    out = (Status.INFEASIBLE, Status.FAILED)
    able = [t for t in trials if t.status not in out and t.keeps_limits and all(map(math.isfinite, t.objectives))]
    kept = non_dominated(np.array([t.objectives for t in able], dtype=np.float64))
    return [t for t, keep in zip(able, kept.tolist(), strict=True) if keep]


def hypervolume(points: Array, reference: Array) -> float:
    """The volume of what the points (n, m) dominate within the box that ends at `reference` (m,).

    While, Bradstreet and Barone 2012, *A fast way of calculating exact hypervolumes*, IEEE Transactions on Evolutionary
    Computation 16, figure 2: the volume is the sum of what each point dominates and none of the later ones.

    Raises SettingError where the reference is not one finite number for each objective.
    """
    if reference.shape != points.shape[1:] or not np.isfinite(reference).all():
        raise SettingError(
            f"reference {reference.tolist()}: give a finite number for each of the {points.shape[1]} objectives."
        )
    inside = points[(points < reference).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)
    return _volume(front, reference)


def _volume(front: Array, reference: Array) -> float:
    """That of different points, none of which dominates another, in order of the first objective."""
    if front.shape[1] <= 2 or len(front) < 2:
        return _staircase(front, reference)
    total = 0.0
    for i, point in enumerate(front):
        shadow = np.maximum(front[i + 1 :], point)  # what the later ones dominate of this one's box
        shadow = np.unique(shadow[non_dominated(shadow)], axis=0)
        total += float(np.prod(reference - point)) - _volume(shadow, reference)
    return total


def _staircase(front: Array, reference: Array) -> float:
    """With one or two objectives, or one point: the boxes beside each other."""
    if front.shape[1] == 2:
        ends = np.concatenate([reference[1:], front[:-1, 1]])[: len(front)]
        return float(((reference[0] - front[:, 0]) * (ends - front[:, 1])).sum())
    return float(np.prod(reference - front, axis=1).sum())
