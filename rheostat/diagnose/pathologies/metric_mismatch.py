"""The validation loss and the error disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import rise_after_best, together
from rheostat.diagnose.wording import change, number, percent, value

RISE = 0.3  # of the validation loss above its lowest value
GAIN = 0.1  # of the error, since then


def detect(run: Observations) -> Sequence[Symptom]:
    """The validation loss ends over 30% above its lowest value, while the error has since fallen by over a tenth of
    itself and by over two standard errors.
    """
    epochs, loss, error = together(run.curve("val_loss"), run.curve("val_error"))
    if len(epochs) < 6 or not (rise := rise_after_best(loss)) > RISE:
        return []
    at = int(loss.argmin())
    then, best = float(error[at]), float(error[at:].min())
    examples = run.facts.get("validation_examples", 0.0)
    spread = math.sqrt(max(then * (1 - then), 0.0) / examples) if examples >= 1 else math.inf
    if not (then - best > GAIN * then and then - best > 2 * spread):
        return []
    text = f"Since epoch {int(epochs[at])} the validation loss rose by {percent(rise)}"
    return [Symptom(f"{text}, yet the error fell from {percent(then)} to {percent(best)}.", int(epochs[at]))]


def remedy(run: Observations) -> Action:
    smoothing = value(run, "label_smoothing")
    more = 0.1 if not smoothing > 0 else min(2 * smoothing, 0.2)
    text = f"Stop and choose by the error. For trustworthy probabilities, set label smoothing to {number(more)}."
    return change(run, text, set={"label_smoothing": more})


PATHOLOGY = Pathology(
    name="metric_mismatch",
    title="Loss and error disagree",
    words="The network gets more examples right, and is ever surer of those it gets wrong: the loss rises while the "
    "error falls.",
    detect=detect,
    remedy=remedy,
    certainty=0.6,
    confused_with=("overfitting",),
    probe="no_regularisation",
    sources=(
        "Guo et al. 2017, On calibration of modern neural networks (arXiv 1706.04599), section 3",
        "Lai et al. 2015 (arXiv 1507.05523): stop by the metric of the task",
    ),
)
