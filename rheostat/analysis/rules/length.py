"""Whether trials train for too few epochs, or too many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from rheostat import hyperparameters
from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.types import Config, Status, TrialRecord

EARLY = (Status.CUT, Status.PAUSED)
FEWEST_FULL = 8  # trials to the end, and trials stopped early
DISAGREES, AGREES = 0.5, 0.7  # rank correlations


def too_short(seen: Evidence) -> list[Advice]:
    """The best trials were still improving when they ended.

    Best in the last quarter (Playbook), falling over the last half beyond chance, and by more than 2%. An
    annealed learning rate makes the end good by itself, so there the advice is to try once.
    """
    full = [t for t in seen.full if t.epochs >= 4]
    late = [t for t in full if t.best_epoch > 0.75 * t.epochs]
    if len(full) < 3 or 2 * len(late) <= len(full) or _falling(full) < 1.645:  # one-sided 5% of a normal
        return []
    if median(_last_gain(t, seen.metric) for t in late) < 0.02:
        return []
    epochs = max(t.epochs for t in late)
    text = f"{len(late)} of the {len(full)} best trials still improved in the last quarter of {epochs} epochs"
    if 2 * sum(anneals(t.config) for t in late) > len(late):
        text += f", where the learning rate comes down: try the best one with {2 * epochs} epochs."
    else:
        text += f": train longer, for example {2 * epochs} epochs."
    return [Advice("too short", text, None, {"epochs": 2 * epochs})]


def _falling(trials: Sequence[TrialRecord]) -> float:
    """How many standard deviations the falls in the last halves of the curves outnumber the rises.

    Mann-Kendall's S, summed over independent series: Hirsch, Slack and Smith 1982, equations 1 to 4.
    """
    statistic = variance = 0.0
    for trial in trials:
        window = max(math.ceil(trial.epochs / 2), 3)
        values = np.array([v for v in trial.values[-window:] if math.isfinite(v)])
        n = len(values)
        statistic += float(np.sign(values[:, None] - values[None, :])[np.triu_indices(n, 1)].sum())
        variance += n * (n - 1) * (2 * n + 5) / 18
    return statistic / math.sqrt(variance) if variance else 0.0


def _last_gain(trial: TrialRecord, metric: str) -> float:
    """By what share the last quarter lowered the best value; an accuracy is taken as an error."""
    offset = 1.0 if "acc" in metric.lower() and -1 <= trial.best <= 0 else 0.0
    earlier = [v for v in trial.values[: math.floor(0.75 * trial.epochs)] if math.isfinite(v)]
    before = min(earlier, default=trial.best)
    return (before - trial.best) / (abs(before + offset) or 1.0)


def anneals(config: Config) -> bool:
    """Whether the learning rate comes down in the course of training."""
    names = ("schedule", *hyperparameters.get("schedule").aliases)
    return any(config.get(name, "constant") not in ("constant", "none", "plateau", None, False) for name in names)


def wasted(seen: Evidence) -> list[Advice]:
    """All the best trials were best in the first tenth of their epochs (Playbook)."""
    full = [t for t in seen.full if t.epochs >= 10]
    if len(full) < 3 or any(t.best_epoch > 0.1 * t.epochs for t in full):
        return []
    latest, epochs = max(t.best_epoch for t in full), max(t.epochs for t in full)
    text = (
        f"The {len(full)} best trials were best by epoch {latest} of {epochs} and never after: "
        f"regularise more, or train for about {3 * latest} epochs and try more configurations."
    )
    return [Advice("wasted", text, None, {"epochs": 3 * latest})]


def short_runs_mislead(seen: Evidence) -> list[Advice]:
    """The order of trials after a short training is not the order at their end, though that is no noise (C29).

    Only where trials were stopped or paused early, since only there it matters. Of the trials that trained to the end,
    the values at the usual stop and at the end are compared by rank, and so are those at four fifths and at the end,
    which tell how much of the order at the end is noise. The former must be below .5, and below the latter, with 95 %
    confidence each (Bonett and Wright 2000, *Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations*, Psychometrika 65). Those that trained on were chosen by their early values, which makes that
    correlation look lower: with what is demanded here, not so much that it matters (tests/analysis/test_advice.py).
    """
    longest = max((t.epochs for t in seen.trials), default=0)
    full = [t for t in seen.trials if t.epochs == longest and np.isfinite(t.values).all()]
    stops = sorted(t.epochs for t in seen.trials if t.status in EARLY and 0 < t.epochs <= longest / 2)
    if len(full) < FEWEST_FULL or len(stops) < FEWEST_FULL:
        return []
    values = np.array([t.values for t in full])  # (trials, epochs)
    stop, late = stops[len(stops) // 2], math.ceil(0.8 * longest)
    early, stays = _agreement(values, stop), _agreement(values, late)
    if late >= longest or early[2] >= DISAGREES or early[2] >= stays[1]:
        return []
    enough = next((epoch for epoch in range(stop, late) if _agreement(values, epoch)[0] >= AGREES), late)
    text = (
        f"Values after {stop} epoch{'s' * (stop > 1)}, where most trials were stopped, say little of those after "
        f"{longest}: over {len(full)} trials their ranks correlate by {early[0]:.2f} ({early[1]:.2f} to "
        f"{early[2]:.2f}). Let every trial train for {enough} epochs at least, or stop none (schedule fifo)."
    )
    return [Advice("short runs mislead", text, None, {"grace_period": enough})]


def _agreement(values: NDArray[np.float64], epoch: int) -> tuple[float, float, float]:
    """Spearman's correlation of (trials, epochs) after an epoch and at the end, and its interval of 90 %."""
    from scipy import stats

    first, last = values[:, epoch - 1], values[:, -1]
    if np.ptp(first) == 0 or np.ptp(last) == 0:
        return 0.0, -1.0, 1.0
    r = min(max(float(stats.spearmanr(first, last).statistic), -0.999), 0.999)
    half = 1.645 * math.sqrt((1 + r**2 / 2) / (len(values) - 3))
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
