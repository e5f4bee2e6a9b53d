"""Whether trials train for too few epochs, or too many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from rheostat import hyperparameters
from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.types import Config, TrialRecord


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
    if 2 * sum(_anneals(t.config) for t in late) > len(late):
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


def _anneals(config: Config) -> bool:
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
