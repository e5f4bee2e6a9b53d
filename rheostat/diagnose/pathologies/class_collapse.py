"""Classes that are never predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import breakdown, last, measured, onset
from rheostat.diagnose.wording import number

MOST_CLASSES = 20  # of more, a sample of training examples hardly holds all
UNBALANCED = 0.9  # of ln C


def detect(run: Observations) -> Sequence[Symptom]:
    """Of at most 20 classes, the network predicts half or fewer on the training examples looked at, at the last two
    looks after the second epoch, and its error is above a tenth.
    """
    classes = run.facts.get("classes", math.nan)
    epochs, predicted = measured(run.curve("probe_predicted"))
    few = predicted <= classes / 2
    wrong = last(run.curve("probe_error"))
    if not 2 <= classes <= MOST_CLASSES or len(epochs) < 3 or not few[-2:].all() or breakdown(run) is not None:
        return []
    if not wrong > 0.1:
        return []
    since = int(epochs[onset(few)])
    return [Symptom(f"Only {number(float(predicted[-1]))} of {number(classes)} classes are ever predicted.", since)]


def remedy(run: Observations) -> Action:
    prior, classes = run.facts.get("prior_loss", math.nan), run.facts.get("classes", math.nan)
    if classes >= 2 and prior < UNBALANCED * math.log(classes):
        return Action("Weight or sample the classes evenly, and judge by an error that counts each class alike.")
    return Action("Check the labels of the classes that are missing, then try another learning rate.")


PATHOLOGY = Pathology(
    name="class_collapse",
    title="Classes never predicted",
    words="The network has settled on a few classes and ignores the rest.",
    detect=detect,
    remedy=remedy,
    certainty=0.3,  # in runs of which the cause is known it was mostly a symptom
    confused_with=("not_learning", "dead_units", "not_shuffled"),
    probe="other_seed",
    sources=("SageMaker Debugger, ClassImbalance: a class mispredicted in over 70% of cases",),
)
