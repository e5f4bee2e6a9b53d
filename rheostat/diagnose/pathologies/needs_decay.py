"""The learning rate should be lowered towards the end."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import last, last_fall, losses, measured, noise
from rheostat.diagnose.wording import change, multiplied, percent
from rheostat.types import Scalar

FLAT = 0.05  # fall over the last quarter
BOUNCE = 0.01  # epoch-to-epoch noise
HIGH = 0.5  # of the highest rate
DECAYING = ("cosine", "linear", "polynomial", "one_cycle", "wsd")  # down to zero, or nearly


def detect(run: Observations) -> Sequence[Symptom]:
    """The learning rate ends above half of its highest value, and in the last quarter the loss fell by under 5%
    while it jitters by over 1%, more than it falls in an epoch.
    """
    _, rates = measured(run.curve("lr"))
    _, curve = losses(run)
    fall, jitter = last_fall(curve), noise(curve)
    if len(rates) < 4 or last(run.curve("lr")) < HIGH * float(rates.max()):
        return []
    if not (fall < FLAT and jitter > max(BOUNCE, 4 * fall / len(curve))):
        return []
    since = max(round(0.75 * len(curve)), 1)
    moved = f"fell by only {percent(fall)}" if fall > 0 else "no longer fell"
    text = f"In the last quarter the loss {moved}, bouncing by {percent(jitter)} an epoch at an undiminished rate."
    return [Symptom(text, since)]


def remedy(run: Observations) -> Action:
    if run.config.get("schedule") in DECAYING:
        return change(run, f"Divide the learning rate by 3{multiplied(run, 'lr', 1 / 3)}.", times={"lr": 1 / 3})
    values: dict[str, Scalar] = {"schedule": "cosine"}
    if "final_lr_fraction" in run.config:
        values["final_lr_fraction"] = 0.0
    return change(run, "Lower the learning rate to zero along a cosine.", set=values)


PATHOLOGY = Pathology(
    name="needs_decay",
    title="Rate never lowered",
    words="The loss no longer falls but bounces: steps are too long for the narrow floor of the valley.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_high", "too_small", "label_noise", "batch_too_small"),
    probe="cooldown",
    sources=(
        "Hägele et al. 2024 (arXiv 2405.18392): a cooldown from a constant rate is worth a cosine",
        "cs231n, Neural networks 3: annealing the learning rate",
        "the thresholds: rules of thumb",
    ),
)
