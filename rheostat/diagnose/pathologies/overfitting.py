"""The network learns the training data by heart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import best_epoch, last, lowest, rise_after_best
from rheostat.diagnose.wording import change, key, number, percent, value
from rheostat.types import Scalar

RISE = 0.05  # of the validation loss above its lowest value
MOST_DROPOUT = 0.7


def detect(run: Observations) -> Sequence[Symptom]:
    """The validation loss ends over 5% above its lowest value, while the training loss went on falling since."""
    validation, trained = run.curve("val_loss"), run.curve("train_loss")
    best, rise = best_epoch(validation), rise_after_best(validation)
    if not rise > RISE:
        return []
    end = last(trained)
    then = last(trained[:best])
    if end >= then:
        return []
    low = number(lowest(validation))
    text = f"The validation loss was lowest after epoch {best}, {low}, and rose by {percent(rise)}"
    falling = "" if math.isnan(end) else f" while the training loss fell to {number(end)}"
    return [Symptom(f"{text}{falling}.", best)]


def remedy(run: Observations) -> Action:
    best = best_epoch(run.curve("val_loss"))
    factors: dict[str, float] = {}
    values: dict[str, Scalar] = {}
    parts = []
    if not math.isnan(dropout := value(run, "dropout")) and dropout < MOST_DROPOUT:
        raised = round(min(dropout + 0.2, MOST_DROPOUT), 3)
        values["dropout"] = raised
        parts.append(f"raise dropout to {number(raised)}")
    if (decay := value(run, "weight_decay")) > 0:
        factors["weight_decay"] = 10.0
        parts.append(f"raise weight decay to {number(10 * decay)}")
    elif decay == 0 or (not parts and key(run, "weight_decay") not in run.config and run.facts):
        values["weight_decay"] = 0.01
        parts.append("set weight decay to 0.01")
    more = " and ".join(parts) or "more dropout or weight decay"
    keep = f"Keep the network of epoch {best}; {more}" if best else f"{more[0].upper()}{more[1:]}"
    return change(run, f"{keep}; more or augmented data help most.", times=factors, set=values)


PATHOLOGY = Pathology(
    name="overfitting",
    title="Overfitting",
    words="The network goes on learning what is true of the training data alone, and gets worse on others.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("label_noise", "metric_mismatch"),
    leads_to=("metric_mismatch",),
    probe="lr_down",
    sources=(
        "Prechelt 1998, Early stopping, but when?: generalisation loss above 5%",
        "cs231n, Neural networks 1: regularise rather than use a smaller network",
        "a gap alone says little: rules on it alarmed on all of 32 healthy runs in a pilot",
    ),
)
