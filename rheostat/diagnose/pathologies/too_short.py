"""Training ended too soon."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import best_epoch, last_fall, lowest, measured
from rheostat.diagnose.wording import change, curve_words, key, multiplied, number, percent, value
from rheostat.types import Status

STILL_FALLING = 0.02  # over the last quarter of the run
METRICS = ("val_error", "val_loss")


def detect(run: Observations) -> Sequence[Symptom]:
    """A validation loss or error is lowest in the last tenth of the epochs, and fell by over 2% in the last quarter."""
    found = []
    for name in METRICS:
        curve = run.curve(name)
        epochs, _ = measured(curve)
        best = best_epoch(curve)
        if len(epochs) >= 2 and best > 0.9 * epochs[-1] and (fall := last_fall(curve)) > STILL_FALLING:
            low = f"The {curve_words(name)} was lowest after epoch {best} of {len(curve)}, {number(lowest(curve))}"
            found.append(Symptom(f"{low}, having fallen by {percent(fall)} in the last quarter.", best))
    return found


def remedy(run: Observations) -> Action:
    if run.status is Status.CONVERGED and value(run, "patience") > 0:
        text = f"Be more patient: double patience{multiplied(run, 'patience', 2)}, and train on."
        return change(run, text, times={"patience": 2})
    planned = max(run.max_epochs, run.epochs)
    length = f", {2 * planned} epochs" if planned else ""
    text = f"Train twice as long{length}, with the schedule laid out over all of it."
    if key(run, "epochs") in run.config:
        return change(run, text, times={"epochs": 2})
    return Action(text, set={"epochs": 2 * planned} if planned else {})


PATHOLOGY = Pathology(
    name="too_short",
    title="Trained too short",
    words="Validation was still getting better when training ended.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_low", "decay_too_early", "batch_too_large", "clipped_too_hard"),
    probe="lr_up",
    sources=("Godbole et al. 2023, Deep Learning Tuning Playbook: the best step consistently in the last quarter",),
)
