"""The learning rate is too high."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import (
    first_rise,
    losses,
    measured,
    ratio,
    rises,
    starting_loss,
    total_fall,
    untrained_loss,
    worst_jump,
    worst_layer,
)
from rheostat.diagnose.wording import change, multiplied, number, percent, times

OFTEN = 0.2  # of the epochs
VISIBLE = 0.005  # of the loss at the start: less is the jitter of a loss near zero
JUMP = 2.5  # times the untrained network's loss
LARGE_UPDATE = 1.0  # of the weights' norm; sound runs were seen to reach 0.8


def detect(run: Observations) -> Sequence[Symptom]:
    """The loss rises by over 2%, and by over 0.5% of its start, in more than a fifth of the epochs; or a batch loss
    within the first eight updates, or in the first epoch, is over 2.5 times the untrained network's; or one
    update changes a layer by more than the size of its weights.
    """
    found = []
    jump, step = worst_jump(run)
    if jump > JUMP:
        found.append(Symptom(f"After {step} updates the loss was {times(jump)} that of the untrained network.", 0))
    _, highest = measured(run.curve("batch_loss_max")[:1])
    if not jump > JUMP and len(highest) and (worst := ratio(float(highest[0]), untrained_loss(run))) > JUMP:
        found.append(Symptom(f"A batch loss of the first epoch was {times(worst)} that of the untrained network.", 0))
    name, curve = losses(run)
    least = VISIBLE * starting_loss(run)
    if len(measured(curve)[0]) >= 4 and (share := rises(curve, least=least)) > OFTEN:
        text = f"The {name} rose in {percent(share)} of the epochs."
        found.append(Symptom(text, first_rise(curve, least=least)))
    layer, size, epoch = worst_layer(run, "update_ratio", LARGE_UPDATE)
    if epoch:
        found.append(Symptom(f"One update changed the weights of {layer} by {percent(size)} of their size.", epoch))
    return found


def remedy(run: Observations) -> Action:
    """The less the loss fell, the further down: by what controlled runs needed."""
    _, curve = losses(run)
    fallen = total_fall(curve, untrained_loss(run))
    by = 30 if fallen < 0.05 else 10 if fallen < 0.5 or rises(curve) > 0.4 else 3
    text = f"Divide the learning rate by {number(by)}{multiplied(run, 'lr', 1 / by)}."
    return change(run, text, times={"lr": 1 / by})


# What steps that are too long lead to.
FOLLOWS = (
    "early_instability",
    "spikes",
    "rising_loss",
    "dead_units",
    "saturated_units",
    "not_learning",
    "class_collapse",
    "clipped_too_hard",
    "metric_mismatch",
)

PATHOLOGY = Pathology(
    name="lr_too_high",
    title="Learning rate too high",
    words="Steps are longer than the valley is wide: the loss jumps from side to side and rises again and again, or "
    "levels off far above what smaller steps would reach.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("diverged", "needs_decay", "not_shuffled", "batch_too_small", "dead_units"),
    leads_to=FOLLOWS,
    probe="lr_down",
    sources=(
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 11.4.1 (the training error over the rate)",
        "LeCun et al. 1998, Efficient BackProp (the loss grows beyond twice the best rate of a quadratic)",
        "the share of rising epochs: chosen in a pilot of 1,560 small runs",
    ),
)
