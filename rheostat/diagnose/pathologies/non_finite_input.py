"""Numbers that are not finite before any update."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import HUGE
from rheostat.types import Status


def detect(run: Observations) -> Sequence[Symptom]:
    """The loss of the untrained network is NaN or infinite: no learning rate can have caused that."""
    before = 0 in run.first and not abs(run.first[0]) < HUGE
    # The trainer counts the update that the loss belongs to, which was computed before it.
    told = run.status is Status.INFEASIBLE and re.search(r"loss (nan|-?inf) at step 1\b", run.reason)
    return [Symptom("The loss was not finite before the first update.", 0)] if before or told else []


def remedy(run: Observations) -> Action:
    return Action(
        "Look for NaN and infinities in the inputs and targets, for logarithms of 0 and divisions by 0 in the loss, "
        "and for classes beyond the network's outputs."
    )


PATHOLOGY = Pathology(
    name="non_finite_input",
    title="Not finite from the start",
    words="The data, the initial weights or the loss itself give NaN or infinity before anything was learnt.",
    detect=detect,
    remedy=remedy,
    certainty=0.97,
    confused_with=("bad_initialisation", "diverged"),
    leads_to=("diverged",),
    sources=("Keras, TerminateOnNaN; TensorFlow 1, NanTensorHook",),
)
