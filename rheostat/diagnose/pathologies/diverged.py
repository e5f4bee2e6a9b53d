"""Training diverged."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.pathologies.lr_too_high import FOLLOWS
from rheostat.diagnose.shapes import breakdown, losses, measured, starting_loss
from rheostat.diagnose.wording import change, multiplied, number, times

BLOWN_UP = 3.0  # times the loss at the start
FAR = 4.0  # times the lowest loss, where that is not tiny beside the loss at the start


def detect(run: Observations) -> Sequence[Symptom]:
    """A loss is infinite or NaN (but not that of the untrained network); or the training loss ends above three times
    that of the untrained network; or it ends above four times its lowest value and above its start.
    """
    found = []
    _, curve = losses(run)
    epochs, values = measured(curve)
    start = starting_loss(run)
    when = breakdown(run)
    if when:
        known = (
            f", after {number(float(values[-1]))} the epoch before" if len(values) and epochs[-1] == when - 1 else ""
        )
        found.append(Symptom(f"The loss ceased to be finite in epoch {when}{known}.", when))
    if len(values) and start > 0:
        end, low = float(values[-1]), float(values.min())
        blown = curve > BLOWN_UP * start
        if end > BLOWN_UP * start:
            since = int(blown.argmax()) + 1
            found.append(Symptom(f"The loss grew to {times(end / start)} that of the untrained network.", since))
        elif 0 < FAR * low < end and end > start:
            since = int(epochs[values.argmin()]) + 1
            found.append(Symptom(f"The loss fell to {number(low)}, and then rose to {number(end)}.", since))
    return found


def remedy(run: Observations) -> Action:
    lower = multiplied(run, "lr", 1 / 30)
    text = f"Divide the learning rate by 30{lower}; if it diverges again, add a warmup and clip gradients."
    return change(run, text, times={"lr": 1 / 30})


PATHOLOGY = Pathology(
    name="diverged",
    title="Training diverged",
    words="The loss grew without bound: every step made the next one longer.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_high", "bad_initialisation", "non_finite_input", "input_scale"),
    leads_to=FOLLOWS,
    probe="lr_down",
    sources=(
        "Lightning's learning-rate finder stops at 4 times the lowest loss; torch-lr-finder at 5 times",
        "Keras TerminateOnNaN: NaN and infinity; TensorFlow 1 NanTensorHook: NaN alone",
    ),
)
