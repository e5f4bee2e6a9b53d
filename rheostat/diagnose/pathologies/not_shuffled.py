"""The training data are not shuffled."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import first, measured, middle, ratio, together
from rheostat.diagnose.wording import number, percent

MIXED = 0.5  # entropy of the classes in a batch, as a share of that in the data
ALIKE = 0.4  # correlation of the losses of neighbouring batches


def detect(run: Observations) -> Sequence[Symptom]:
    """The first batches hold less than half of the entropy of all classes; or, after the first quarter of the epochs,
    in which the loss falls within an epoch anyway, the losses of neighbouring batches are correlated by over 0.4 in
    the median.
    """
    share = first(run.curve("batch_classes"))
    direct = (
        [Symptom(f"Batches hold few classes: {percent(share)} of the entropy of all data.")] if share < MIXED else []
    )
    return [*direct, *_saw_tooth(run)]


def _saw_tooth(run: Observations) -> list[Symptom]:
    epochs, values = measured(run.curve("batch_loss_autocorrelation"))
    later = values[epochs > 0.25 * len(run.curve("batch_loss_autocorrelation"))]
    if len(values) < 3 or not len(later) or not (alike := middle(later)) > ALIKE:
        return []
    found = [
        Symptom(f"Losses of neighbouring batches go together: correlation {number(alike, 2)}, shuffled about 0.", 1)
    ]
    _, spread, mean = together(run.curve("batch_loss_sd"), run.curve("train_loss"))
    if len(mean) and (share := ratio(float(spread[-1]), float(mean[-1]))) > 0.5:
        found.append(Symptom(f"Within an epoch the batch loss varies by {percent(share)} of its mean.", 1))
    return found


def remedy(run: Observations) -> Action:
    return Action("Shuffle the training examples anew in every epoch (DataLoader: shuffle=True).")


PATHOLOGY = Pathology(
    name="not_shuffled",
    title="Data not shuffled",
    words="Successive batches hold examples of the same kind, so the network learns one kind and forgets the last: "
    "the loss goes up and down within every epoch.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_high", "spikes", "batch_too_small"),
    leads_to=("early_instability", "spikes", "rising_loss", "class_collapse", "not_learning", "metric_mismatch"),
    probe="lr_down",
    sources=(
        "LeCun et al. 1998, Efficient BackProp, section 4.2: shuffle the examples",
        "Godbole et al. 2023, Deep Learning Tuning Playbook: periodic losses come from data not properly shuffled",
    ),
)
