"""Regularisation holds training back."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import last_fall, lowest, ratio, together
from rheostat.diagnose.wording import change, multiplied, number, percent, times, value

APART = 1.2  # loss in training mode over that in evaluation mode
STRONG_DROPOUT, STRONG_DECAY, STRONG_SMOOTHING = 0.5, 0.05, 0.2


def detect(run: Observations) -> Sequence[Symptom]:
    """At the end the training loss is over 1.2 times that of training examples in evaluation mode, and not below the
    validation loss; or dropout is over 0.5, or weight decay over 0.05, where validation is no worse than training.
    """
    found = []
    epochs, trained, probed = together(run.curve("train_loss"), run.curve("probe_loss"))
    low, validated = lowest(run.curve("train_loss")), lowest(run.curve("val_loss"))
    if len(epochs) and trained[-1] >= 0.95 * validated:
        apart = ratio(float(trained[-1]), float(probed[-1]))
        if apart > APART and value(run, "dropout") > 0:
            found.append(Symptom(f"With dropout the training loss is {times(apart)} that without.", 1))
    if not ratio(validated, low) < 1.1 or not last_fall(run.curve("train_loss")) < 0.1:
        return found
    for name, strong, words in (
        ("dropout", STRONG_DROPOUT, "dropout"),
        ("weight_decay", STRONG_DECAY, "weight decay"),
        ("label_smoothing", STRONG_SMOOTHING, "label smoothing"),
    ):
        if value(run, name) > strong:
            amount = number(value(run, name))
            gap = percent(max(ratio(validated, low) - 1, 0.0))
            found.append(Symptom(f"With {words} at {amount}, validation is only {gap} worse than training.", 1))
    return found


def remedy(run: Observations) -> Action:
    factors, parts = {}, []
    for name, words, factor in (
        ("dropout", "halve dropout", 0.5),
        ("weight_decay", "divide weight decay by 10", 0.1),
        ("label_smoothing", "halve label smoothing", 0.5),
    ):
        if value(run, name) > 0:
            factors[name] = factor
            parts.append(words + multiplied(run, name, factor))
    text = "; ".join(parts) or "halve dropout and divide weight decay by 10"
    return change(run, f"{text[0].upper()}{text[1:]}.", times=factors or {"dropout": 0.5, "weight_decay": 0.1})


PATHOLOGY = Pathology(
    name="over_regularised",
    title="Too much regularisation",
    words="Dropout, weight decay or label smoothing keep the network from fitting even the training data.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("too_small", "lr_too_low", "label_noise", "leak"),
    leads_to=("not_learning", "class_collapse", "leak"),
    probe="no_regularisation",
    sources=(
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 11.4.1 and table 11.1",
        "UMLAUT (Schoop et al. 2021): dropout above 0.5",
    ),
)
