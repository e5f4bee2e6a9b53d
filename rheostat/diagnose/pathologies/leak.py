"""Validation that is better than training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import onset, together
from rheostat.diagnose.wording import number, percent

BETTER = 0.6  # validation loss over that of training examples, both in evaluation mode
LOOKS = 4
LOOKED_AT = 128  # training examples


def detect(run: Observations) -> Sequence[Symptom]:
    """In evaluation mode, the validation loss is below 60% of that of training examples at each of the last three
    looks, and the error is lower by over three standard errors.
    """
    epochs, trained, validated = together(run.curve("probe_loss"), run.curve("val_loss"))
    if len(epochs) < LOOKS or not (validated[-3:] < BETTER * trained[-3:]).all():
        return []
    _, wrong, wrong_validated = together(run.curve("probe_error"), run.curve("val_error"))
    if not len(wrong):
        return []
    error, other = float(wrong[-1]), float(wrong_validated[-1])
    examples = run.facts.get("validation_examples", LOOKED_AT)
    spread = math.sqrt(max(error * (1 - error), 1e-4) * (1 / LOOKED_AT + 1 / max(examples, 1.0)))
    if not error - other > 3 * spread:
        return []
    low, high = number(float(validated[-1])), number(float(trained[-1]))
    text = f"Validation loss is {low}, of training examples {high}; errors: {percent(other)} and {percent(error)}."
    return [Symptom(text, int(epochs[onset(validated < BETTER * trained)]))]


def remedy(run: Observations) -> Action:
    return Action(
        "Look for examples that are in both sets, and split anew, by group or time where examples belong together."
    )


PATHOLOGY = Pathology(
    name="leak",
    title="Validation too good",
    words="The network does better on data that it never saw than on its own, under the same conditions: the "
    "validation data are easier, doubled, or were used for training elsewhere.",
    detect=detect,
    remedy=remedy,
    certainty=0.6,
    confused_with=("label_noise", "over_regularised"),
    probe="no_regularisation",
    sources=(
        "UMLAUT (Schoop et al. 2021): validation accuracy above training accuracy",
        "60% and three standard errors: rules of thumb",
    ),
)
