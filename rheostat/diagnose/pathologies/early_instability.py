"""A leap of the loss within the first updates, which a log by epochs hides."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import breakdown, last, losses, untrained_loss, worst_jump
from rheostat.diagnose.wording import change, times, value

LEAP = 4.0  # times the untrained network's loss


def detect(run: Observations) -> Sequence[Symptom]:
    """Within the first eight updates the batch loss exceeds four times that of the untrained network, and the run
    ends below that nevertheless.
    """
    leap, step = worst_jump(run)
    _, curve = losses(run)
    if not leap > LEAP or breakdown(run) is not None or not last(curve) < untrained_loss(run):
        return []
    return [Symptom(f"After {step} updates the loss was {times(leap)} that of the untrained network.", 0)]


def remedy(run: Observations) -> Action:
    warmup = value(run, "warmup")
    share = min(2 * warmup, 0.2) if warmup > 0 else 0.05
    return change(run, f"Warm the learning rate up over the first {share:.0%} of the run.", set={"warmup": share})


PATHOLOGY = Pathology(
    name="early_instability",
    title="Unstable start",
    words="The first steps are too long for the untrained network: it is thrown off and spends epochs coming back.",
    detect=detect,
    remedy=remedy,
    certainty=0.7,
    confused_with=("lr_too_high", "bad_initialisation", "input_scale"),
    leads_to=("dead_units", "saturated_units"),
    probe="lr_down",
    sources=(
        "Godbole et al. 2023, Deep Learning Tuning Playbook: identifying unstable workloads; warmup",
        "Goyal et al. 2017 (arXiv 1706.02677), section 2.2: gradual warmup",
        "four times: a rule of thumb",
    ),
)
