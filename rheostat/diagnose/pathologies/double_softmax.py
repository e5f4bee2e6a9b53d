"""The softmax is applied twice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import lowest, measured, together
from rheostat.diagnose.wording import number, percent

FAR_FROM_GUESSING = 0.5  # of the error of guessing


def floor(classes: float) -> float:
    """The lowest cross-entropy of C classes where probabilities are taken for scores: ln(e + C - 1) - 1.

    A softmax of scores in [0, 1] gives the right class at most e / (e + C - 1).
    """
    return math.log(math.e + classes - 1) - 1


def detect(run: Observations) -> Sequence[Symptom]:
    """The loss stays above ln(e + C - 1) - 1, the least possible for C classes where the softmax is applied twice, and
    comes within 15% of it, though the error is below half of that of guessing.
    """
    classes = run.facts.get("classes", math.nan)
    if not classes >= 2:
        return []
    least = floor(classes)
    for loss, error in (("probe_loss", "probe_error"), ("val_loss", "val_error")):
        epochs, values, wrong = together(run.curve(loss), run.curve(error))
        if not len(epochs) or not (0.995 * least < values.min() < 1.15 * least):
            continue
        error_then = float(wrong[values.argmin()])
        expected = FAR_FROM_GUESSING * (1 - 1 / classes)
        if error_then < expected and lowest(run.curve("train_loss")) > 0.995 * least:
            text = f"The loss stays at {number(float(values.min()))} though {percent(1 - error_then)} are right"
            why = f"with a second softmax it cannot go below {number(least)}"
            first = int(epochs[(wrong < expected).argmax()])
            return [Symptom(f"{text}: {why}.", first)]
    return []


def remedy(run: Observations) -> Action:
    loss = "cross_entropy" if len(measured(run.curve("val_error"))[0]) else "the loss"
    return Action(f"Remove the softmax at the network's end: {loss} has its own and wants plain scores.")


PATHOLOGY = Pathology(
    name="double_softmax",
    title="Softmax applied twice",
    words="The network ends in a softmax and the loss applies another: gradients are small, and the loss cannot fall "
    "far however right the network is.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_low", "too_small", "over_regularised", "vanishing_gradient"),
    leads_to=("not_learning", "class_collapse", "wrong_head"),
    probe="lr_up",
    sources=(
        "the bound: from the definition of the softmax",
        "UMLAUT (Schoop et al. 2021) and AutoTrainer (Zhang et al. 2021) look for it in the code",
    ),
)
