"""How much a study still has to train: epochs by its schedule, seconds by what its trials cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rheostat.schedule.asha import rungs
from rheostat.schedule.freeze_thaw import STEEP
from rheostat.types import UNLIMITED, Status, TrialRecord

FACTOR = 3  # of the rungs
PROMOTED = 2.6  # of so many trials ASHA promotes one: a third at any time, and early ones that would not be later
GOES_ON = 3  # of so many trials the best one trains on, where others are stopped or paused


def expected_epochs(schedule: str, trials: int, max_epochs: int) -> tuple[int, float] | None:
    """The epochs that a trial begins with, and those of a whole study; None where the schedule does not say."""
    if schedule == "fifo":
        return max_epochs, trials * max_epochs
    ends = np.array(rungs(1, max_epochs, FACTOR))
    if schedule == "freeze-thaw":  # each stage gets its share of the first, in which every trial trains
        return 1, float(min(trials * (STEEP ** np.arange(len(ends))).sum(), trials * max_epochs))
    if schedule == "asha":
        stages = np.diff(ends, prepend=0)
        return 1, float((trials / PROMOTED ** np.arange(len(ends)) * stages).sum())
    return None


def seconds_left(
    trials: Sequence[TrialRecord], costs: Mapping[int, float], schedule: str, wanted: int, max_epochs: int
) -> float | None:
    """Seconds of training before a study has its `wanted` trials, were one trained after another.

    `costs` are the seconds per epoch of trials that have trained. What is assigned costs what its trial does. New
    trials will cost what trials cost on average, one trial one vote: cheap ones have trained more epochs by now. Later
    epochs will cost what the best third costs: they are those that go on, and may be much larger networks than others.
    Where the number of epochs is left to the objective, it is that of ended trials on average. None where there is no
    cost yet, or no end.
    """
    if max_epochs == UNLIMITED:
        max_epochs = round(float(np.mean([t.epochs for t in trials if t.status.ended and t.epochs] or [0])))
    if not costs or not max_epochs:
        return None
    mean = float(np.mean(list(costs.values())))
    training = [trial for trial in trials if trial.status is Status.TRAINING]
    assigned = {t.number: max(min(t.until_epoch, max_epochs) - t.epochs, 0) for t in training}
    seconds = sum(epochs * costs.get(number, mean) for number, epochs in assigned.items())
    epochs = sum(trial.epochs - trial.born for trial in trials) + sum(assigned.values())
    expected = expected_epochs(schedule, wanted, max_epochs)
    if expected is None:
        return seconds + max(epochs / len(trials) * wanted - epochs, 0.0) * mean
    first, total = expected
    new = max(wanted - len(trials), 0) * first
    best = sorted((t for t in trials if t.number in costs), key=lambda t: (t.best, t.number))
    later = float(np.mean([costs[trial.number] for trial in best[: -(-len(best) // GOES_ON)]]))
    return seconds + new * mean + max(total - epochs - new, 0.0) * later
