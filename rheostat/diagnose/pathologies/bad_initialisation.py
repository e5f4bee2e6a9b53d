"""The initial weights have the wrong size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import untrained_loss
from rheostat.diagnose.wording import change, number

OFF = 0.5  # of what guessing costs


def guessing(run: Observations) -> float:
    """The loss of guessing among all classes alike, ln C; that of known frequencies where only it is known; or NaN."""
    classes = run.facts.get("classes", math.nan)
    return math.log(classes) if classes > 1 else run.facts.get("prior_loss", math.nan)


def detect(run: Observations) -> Sequence[Symptom]:
    """The untrained network's loss exceeds that of guessing among the classes, ln C, by over half."""
    start, guess = untrained_loss(run), guessing(run)
    if not (guess > 0 and start > (1 + OFF) * guess):
        return []
    return [Symptom(f"The untrained network's loss is {number(start)}, where guessing costs {number(guess)}.", 0)]


def remedy(run: Observations) -> Action:
    text = "Scale the initial weights to the number of inputs of each layer (He or Glorot), with biases at 0."
    return change(run, text, set={"init": 1.0} if "init" in run.config else None)


PATHOLOGY = Pathology(
    name="bad_initialisation",
    title="Bad initial weights",
    words="The first weights are too large or too small: before the first update the network is sure of nonsense, "
    "or passes no signal on.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("input_scale", "diverged", "saturated_units", "vanishing_gradient"),
    leads_to=(
        "dead_units",
        "saturated_units",
        "vanishing_gradient",
        "early_instability",
        "not_learning",
        "class_collapse",
        "clipped_too_hard",
    ),
    probe="lr_down",
    sources=(
        "Karpathy 2019, A recipe for training neural networks: verify the loss at initialisation",
        "He et al. 2015 (arXiv 1502.01852), section 2.2",
        "half of ln C: a rule of thumb",
    ),
)
