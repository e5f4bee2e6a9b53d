"""The softmax is applied twice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import first, lowest, measured, onset, together
from rheostat.diagnose.wording import number, percent

NEAR = (0.97, 1.06)  # the loss over what it would be
BETTER = 0.75  # of the error of guessing
LOOKS = 2  # in a row, the last


def floor(classes: float) -> float:
    """The lowest cross-entropy of C classes where probabilities are taken for scores: ln(e + C - 1) - 1.

    A softmax of scores in [0, 1] gives the right class at most e / (e + C - 1); a surely wrong answer costs 1 more.
    """
    return math.log(math.e + classes - 1) - 1


def detect(run: Observations) -> Sequence[Symptom]:
    """All outputs of the network are probabilities already; or the validation loss is, at the last two epochs, from
    3% below to 6% above ln(e + C - 1) - 1 plus the error: what a sure network of C classes pays where the softmax is
    applied twice. The error is then below three quarters of that of guessing, and the training loss never below
    ln(e + C - 1) - 1.
    """
    if first(run.curve("probe_sums_to_one")) == 1:
        return [Symptom("The outputs lie between 0 and 1 and sum to 1: they are probabilities, where scores are due.")]
    classes = run.facts.get("classes", math.nan)
    if not classes >= 2:
        return []
    least = floor(classes)
    epochs, losses, errors = together(run.curve("val_loss"), run.curve("val_error"))
    share = losses / (least + np.maximum(errors, 0))
    fits = (share > NEAR[0]) & (share < NEAR[1]) & (errors < BETTER * (1 - 1 / classes))
    if len(fits) < LOOKS or not fits[-LOOKS:].all() or not lowest(run.curve("train_loss")) > 0.99 * least:
        return []
    text = f"The loss stays at {number(float(losses[-1]))} though {percent(1 - float(errors[-1]))} are right"
    why = f"with a second softmax it cannot go below {number(least)} plus the error"
    return [Symptom(f"{text}: {why}.", int(epochs[onset(fits)]))]


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
