"""Some training labels are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import best_epoch, rise_after_best, together
from rheostat.diagnose.wording import percent

GAP = 0.05  # training error above validation error
STUCK = 0.1  # error that remains on the training examples


def detect(run: Observations) -> Sequence[Symptom]:
    """At the lowest validation error, the error on training examples is over 5 points higher; or the validation loss
    turns in the first half and rises by over 5%, while over 10% of the training examples stay wrong until then.
    """
    epochs, trained, validated = together(run.curve("probe_error"), run.curve("val_error"))
    if not len(epochs):
        return []
    found = []
    at = int(validated.argmin())
    error, other = float(trained[at]), float(validated[at])
    if error > other + GAP + 2 * _spread(other, run.facts.get("validation_examples", math.inf)):
        words = f"{percent(error)} of the training examples, but {percent(other)} of the validation examples, are wrong"
        found.append(Symptom(f"At the lowest validation error {words}.", int(epochs[at])))
    validation = run.curve("val_loss")
    turn = best_epoch(validation)
    before = trained[epochs <= turn]
    if 0 < turn <= 0.5 * run.epochs and rise_after_best(validation) > 0.05 and len(before) and before[-1] > STUCK:
        words = f"with {percent(float(before[-1]))} of the training examples still wrong"
        found.append(Symptom(f"The validation loss turned after epoch {turn}, {words}.", turn))
    return found


def _spread(share: float, examples: float) -> float:
    """The standard error of a share."""
    return math.sqrt(max(share * (1 - share), 0.0) / max(examples, 1.0))


def remedy(run: Observations) -> Action:
    best = best_epoch(run.curve("val_error")) or best_epoch(run.curve("val_loss"))
    keep = f"; until then keep the network of epoch {best}" if best else ""
    return Action(f"Look through the training examples with the highest loss and mend their labels{keep}.")


PATHOLOGY = Pathology(
    name="label_noise",
    title="Wrong labels",
    words="Part of the labels contradict the rest. The network first learns what is common, then learns the wrong "
    "ones by heart.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("overfitting", "too_small", "over_regularised"),
    leads_to=("overfitting", "leak", "metric_mismatch", "wrong_head"),
    probe="no_regularisation",
    sources=(
        "Zhang et al. 2017, Understanding deep learning requires rethinking generalization (arXiv 1611.03530)",
        "Mishkin et al. 2016 (arXiv 1606.02228): 5, 10, 15 and 50% of wrong labels cost 1.3, 2.4, 3.4 and 12.4 points",
    ),
)
