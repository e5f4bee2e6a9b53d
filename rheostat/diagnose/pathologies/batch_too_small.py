"""Batches so small that steps are mostly noise."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import last_fall, losses, measured, noise, ratio, together
from rheostat.diagnose.wording import change, multiplied, number, percent, value

SMALL = 8  # examples
SCATTER = 0.5  # of the batch loss within an epoch, of its mean
FLAT = 0.02  # fall over the last quarter
BOUNCE = 0.02  # epoch-to-epoch noise


def detect(run: Observations) -> Sequence[Symptom]:
    """Batches hold at most eight examples, batch losses scatter by over half of their mean, and in the last quarter
    the training loss fell by under 2% while it jitters by more than that from epoch to epoch.
    """
    size = value(run, "batch_size")
    _, curve = losses(run)
    if not size <= SMALL or len(measured(curve)[0]) < 6:
        return []
    epochs, spread, mean = together(run.curve("batch_loss_sd"), run.curve("train_loss"))
    scatter = ratio(float(spread[-1]), float(mean[-1])) if len(epochs) else float("nan")
    if not (scatter > SCATTER and last_fall(curve) < FLAT and noise(curve) > BOUNCE):
        return []
    text = f"With batches of {number(size)}, batch losses scatter by {percent(scatter)} of their mean"
    return [Symptom(f"{text}, and the loss bounces by {percent(noise(curve))} an epoch.", 1)]


def remedy(run: Observations) -> Action:
    text = f"Multiply the batch size by 4{multiplied(run, 'batch_size', 4)}; epochs get faster as well."
    return change(run, text, times={"batch_size": 4})


PATHOLOGY = Pathology(
    name="batch_too_small",
    title="Batch too small",
    words="A few examples say little about the direction in which the loss falls: steps point anywhere, and the loss "
    "bounces instead of falling.",
    detect=detect,
    remedy=remedy,
    certainty=0.6,
    confused_with=("lr_too_high", "needs_decay", "spikes"),
    leads_to=("spikes", "rising_loss"),
    probe="lr_down",
    sources=(
        "McCandlish et al. 2018 (arXiv 1812.06162): the gradient noise scale",
        "Smith et al. 2018 (arXiv 1711.00489): larger batches instead of lower rates",
        "the thresholds: rules of thumb",
    ),
)
