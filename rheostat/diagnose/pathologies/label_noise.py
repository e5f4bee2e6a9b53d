"""Some training labels are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import best_epoch, rise_after_best, together
from rheostat.diagnose.wording import percent

GAP = 0.05  # training error above validation error
STUCK = 0.1  # error on training examples when the validation loss turns
RISE = 0.1  # of the validation loss since


def detect(run: Observations) -> Sequence[Symptom]:
    """At the lowest validation error, the error on training examples is over 5 points higher; or the validation loss
    turns in the first half and rises by over 10%, when over 10% of the training examples were still wrong, of which
    the network has since learnt a third or more by heart.
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
    if not (0 < turn <= 0.5 * run.epochs and rise_after_best(validation) > RISE and len(before)):
        return found
    wrong = float(before[-1])
    if wrong > STUCK and float(trained[-1]) < 0.7 * wrong:
        words = f"{percent(wrong)} of the training examples were wrong; {percent(float(trained[-1]))} are at the end"
        found.append(Symptom(f"When the validation loss turned, after epoch {turn}, {words}.", turn))
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
