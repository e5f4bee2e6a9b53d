"""A training loss that rises for long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import breakdown, measured, smooth, starting_loss
from rheostat.diagnose.wording import number, percent

RISE = 0.1  # above the lowest, of the lowest
TALL = 0.03  # of the loss at the start
EARLY = 0.75  # of the run


def detect(run: Observations) -> Sequence[Symptom]:
    """Smoothed over five epochs, the training loss ends over 10% and over 3% of its start above its lowest value,
    which it had in the first three quarters, though the learning rate was not raised since.
    """
    trained = run.curve("train_loss")
    epochs, _ = measured(trained)
    values = smooth(trained)
    start = starting_loss(run)
    if len(values) < 8 or breakdown(run) is not None or not start > 0:
        return []
    at = int(values.argmin())
    low, end = float(values[at]), float(values[-1])
    if at > EARLY * len(values) or not end > low * (1 + RISE) or not end - low > TALL * start or low <= 0:
        return []
    rate_epochs, rates = measured(run.curve("lr"))
    since = rates[rate_epochs >= epochs[at]]
    if len(since) and np.any(since > 1.05 * since[0]):
        return []
    best = int(epochs[at])
    return [Symptom(f"The training loss rose by {percent(end / low - 1)} since epoch {best}, to {number(end)}.", best)]


def remedy(run: Observations) -> Action:
    return Action(
        "Look for what changes during training: data that are drawn differently, a growing penalty, an average of "
        "weights. If nothing does, divide the learning rate by 3."
    )


PATHOLOGY = Pathology(
    name="rising_loss",
    title="Training loss rises",
    words="The training loss goes up for long although the rate does not: this is usually a bug.",
    detect=detect,
    remedy=remedy,
    certainty=0.8,
    confused_with=("lr_too_high", "diverged", "not_shuffled"),
    leads_to=("metric_mismatch",),
    probe="lr_down",
    sources=("Godbole et al. 2023, Deep Learning Tuning Playbook: a rising training loss usually indicates a bug",),
)
