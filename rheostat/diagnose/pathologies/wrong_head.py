"""A loss that does not fit the network's outputs or the error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import best_epoch, lowest, together
from rheostat.diagnose.wording import curve_words, number, percent

LOW = 0.3  # of the loss of one who knows the frequencies alone
NO_BETTER = 0.8  # of the error of guessing


def detect(run: Observations) -> Sequence[Symptom]:
    """A cross-entropy is negative; or on the same examples the loss is below 30% of that of guessing, while the
    error is above 80% of that of guessing.
    """
    classes = run.facts.get("classes", math.nan)
    if not classes >= 2:
        return []
    for name in ("train_loss", "val_loss"):
        curve = run.curve(name)
        if (low := lowest(curve)) < 0:
            text = f"The {curve_words(name)} was {number(low)}, and a cross-entropy is never negative."
            return [Symptom(text, best_epoch(curve))]
    guess = run.facts.get("prior_loss", math.log(classes))
    epochs, losses, errors = together(run.curve("probe_loss"), run.curve("probe_error"))
    odd = (losses < LOW * guess) & (errors > NO_BETTER * (1 - 1 / classes))
    if len(epochs) < 2 or not odd[-2:].all():
        return []
    text = f"The loss on training examples is {number(float(losses[-1]))}, yet {percent(float(errors[-1]))} are wrong."
    return [Symptom(text, int(epochs[odd.argmax()]))]


def remedy(run: Observations) -> Action:
    return Action(
        "Check that the network gives one plain score per class, with no activation at its end, and that loss and "
        "error compare them with the same targets."
    )


PATHOLOGY = Pathology(
    name="wrong_head",
    title="Loss does not fit",
    words="The loss takes the network's outputs for something else than they are.",
    detect=detect,
    remedy=remedy,
    certainty=0.95,
    confused_with=("double_softmax",),
    leads_to=("not_learning", "class_collapse"),
    sources=(
        "a cross-entropy is at least 0 by definition",
        "AutoTrainer (Zhang et al. 2021) and UMLAUT (Schoop et al. 2021): activation and loss that do not match",
    ),
)
