"""The network is too small."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import last_fall, lowest, measured, ratio, total_fall, untrained_loss
from rheostat.diagnose.wording import DEPTHS, WIDTHS, change, number, percent

FLAT = 0.08  # fall over the last quarter
CLOSE = 0.2  # validation above training loss
FAR = 0.1  # of the loss at the start, from zero


def detect(run: Observations) -> Sequence[Symptom]:
    """The training loss fell by under 8% in the last quarter and is still above a tenth of its start, and the
    validation loss is within 20% of it.
    """
    trained = run.curve("train_loss")
    epochs, _ = measured(trained)
    low, validated = lowest(trained), lowest(run.curve("val_loss"))
    start = untrained_loss(run)
    left = 1 - total_fall(trained, start)
    if len(epochs) < 4 or not (0 <= last_fall(trained) < FLAT and left > FAR and low > 0):
        return []
    if not ratio(validated - low, low) < CLOSE:
        return []
    words = f"{percent(left)} of its start remains" if start > 0 else "much of it remains"
    since = max(int(0.75 * epochs[-1]), 1)
    text = f"Training and validation loss level off together, at {number(low)} and {number(validated)}: {words}."
    return [Symptom(text, since)]


def remedy(run: Observations) -> Action:
    widths = [name for name in WIDTHS if name in run.config]
    depths = [name for name in DEPTHS if isinstance(run.config.get(name), int) and run.config[name] < 2]
    factors = dict.fromkeys([*(widths or ["units"]), *depths], 2.0)
    names = " and ".join([*(widths or ["the number of units"]), *depths])
    return change(run, f"Enlarge the network: double {names}, and go on while validation gains.", times=factors)


PATHOLOGY = Pathology(
    name="too_small",
    title="Network too small",
    words="Training and validation are equally bad and no longer improve: the network cannot express more.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("over_regularised", "label_noise", "lr_too_low", "frozen_layer", "needs_decay"),
    probe="larger",
    sources=(
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 11.4.1",
        "cs231n, Neural networks 3: training and validation accuracy about equal",
        "char-rnn, README: losses about equal are underfitting",
    ),
)
