"""Gradient clipping that shortens most updates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import last, measured, middle, ratio
from rheostat.diagnose.wording import change, multiplied, number, percent, value

MOST = 0.5  # of the updates
MOST_RAISED = 1e6  # times


def detect(run: Observations) -> Sequence[Symptom]:
    """Over half of the updates were clipped, in the median over epochs; or, where that was not recorded, the
    gradient's norm is above `clip_norm` after over half of the epochs.
    """
    bound = value(run, "clip_norm")
    epochs, shares = measured(run.curve("clipped"))
    norm = last(run.curve("grad_norm"))
    if not len(shares):
        epochs, norms = measured(run.curve("grad_norm"))
        shares = (norms > bound).astype(np.float64)
        if not len(shares) or not shares.mean() > MOST:
            return []
        text = f"The gradient's norm was above {number(bound)} after {percent(float(shares.mean()))} of the epochs"
    elif middle(shares) > MOST:
        text = f"Clipping shortened {percent(middle(shares))} of the updates"
    else:
        return []
    beside = f"; it ended at {number(norm)}, the bound is {number(bound)}" if norm > bound else ""
    return [Symptom(f"{text}{beside}.", int(epochs[(shares > MOST).argmax()]))]


def remedy(run: Observations) -> Action:
    _, norms = measured(run.curve("grad_norm"))
    share = ratio(middle(norms), value(run, "clip_norm")) if len(norms) else math.nan
    by = 10.0 ** math.ceil(math.log10(share)) if 10 < share < MOST_RAISED else 10.0
    text = f"Raise clip_norm {number(by)} times{multiplied(run, 'clip_norm', by)}, so that it cuts outliers only."
    return change(run, text, times={"clip_norm": by})


PATHOLOGY = Pathology(
    name="clipped_too_hard",
    title="Clipped too hard",
    words="Clipping shortens most updates instead of rare outliers, and so acts as a lower learning rate.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_low", "too_short", "bad_initialisation"),
    leads_to=("not_learning",),
    probe="lr_up",
    sources=(
        "Godbole et al. 2023, Deep Learning Tuning Playbook: clip at the 90th percentile of norms; over half clipped "
        "is too much",
    ),
)
