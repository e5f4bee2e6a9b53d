"""Successive halving that trains longer only while the order of the best is not settled.

Bohdal et al. 2023, *PASHA: efficient HPO and NAS with progressive resource allocation*, ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat.schedule.asha import ASHA, best_until
from rheostat.types import Assignment, History, Status, TrialRecord

PERCENTILE = 90  # N of the paper
MOST_COMPARED = 200  # trials of the top rung, the best of them, by which noise is estimated


class PASHA:
    """ASHA whose highest rung is raised while the two highest rank their trials differently.

    Algorithm 1 of the paper: trials are promoted as by `ASHA`, at first to its second rung at most. When the trials
    in the highest rung allowed stand there in another order than in the rung below, the next rung is allowed too.
    Orders are compared softly: values closer than `noise` count as equal. Where the order is stable the
    study ends with its best trials paused below `max_epochs`; which is best is then known for less.

    The paper raises the rung for good at the moment when the orders differ. Here it follows from what is known now,
    as every decision does: a rung stays allowed where a trial was promoted to it, and one in which the orders agree
    again before that is closed.
    """

    adaptive = True

    def __init__(self, asha: ASHA) -> None:
        self.asha = asha

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        rungs = self.asha.rungs
        return self.asha.within(rungs[: top_rung(history.trials, rungs) + 1], history, free, rng)


def top_rung(trials: Sequence[TrialRecord], rungs: Sequence[int]) -> int:
    """The index of the highest rung allowed, at least 1 where there are as many."""
    last = len(rungs) - 1
    furthest = max((trial.until_epoch for trial in trials), default=0)
    top = min(1, last)
    while top < last and (furthest > rungs[top] or not is_stable(trials, rungs[top - 1], rungs[top])):
        top += 1
    return top


def is_stable(trials: Sequence[TrialRecord], lower: int, upper: int) -> bool:
    """Whether the trials that trained `upper` epochs stand in the same order as after `lower` epochs.

    Softly: at each place of the upper order must stand a trial whose value in the lower rung is within `noise` of that
    of the trial which stood there. Diverged trials are not compared.
    """
    held = [t for t in trials if t.epochs >= upper and t.status is not Status.CANCELLED]
    pairs = [(best_until(t.values, upper), best_until(t.values, lower), t.number, t) for t in held]
    after = sorted(pair for pair in pairs if math.isfinite(pair[0]) and math.isfinite(pair[1]))
    before = sorted(value for _, value, *_ in after)
    epsilon = noise([trial.values[:upper] for *_, trial in after[:MOST_COMPARED]])
    return all(abs(value - place) <= epsilon for (_, value, *_), place in zip(after, before, strict=True))


def noise(curves: Sequence[Sequence[float]]) -> float:
    """How far apart two values may be that noise alone has put in order (epsilon of the paper).

    Two curves that cross and cross back, f_l(a) > f_l(b), f_k(a) < f_k(b), f_j(a) > f_j(b) for epochs j > k > l, differ
    by noise. Of all such pairs the 90th percentile of |f_j(a) - f_j(b)| at the last epoch; 0 where there are none.
    The curves are of the same length.
    """
    if len(curves) < 2 or len(curves[0]) < 3:
        return 0.0
    values: NDArray[np.float64] = np.array(curves, dtype=float)  # (trials, epochs)
    values[np.isinf(values)] = np.nan  # neither above nor below
    distances: list[NDArray[np.float64]] = []
    for i in range(len(values) - 1):
        apart = values[i] - values[i + 1 :]
        above = np.logical_or.accumulate(apart > 0, axis=1)  # at this epoch or earlier
        below = np.logical_or.accumulate(apart < 0, axis=1)
        back_up = (apart[:, 1:] < 0) & above[:, :-1]  # below after above; above again later makes it twice
        back_down = (apart[:, 1:] > 0) & below[:, :-1]
        last = apart[:, -1]
        twice = np.where(last > 0, back_up.any(axis=1), np.where(last < 0, back_down.any(axis=1), False))
        distances.append(np.abs(last[twice]))
    found = np.concatenate(distances)
    return float(np.percentile(found, PERCENTILE)) if len(found) else 0.0
