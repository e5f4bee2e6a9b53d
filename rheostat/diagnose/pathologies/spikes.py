"""Single spikes of the loss, from which training recovers."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import SMALL, last, losses, measured, starting_loss
from rheostat.diagnose.wording import change, number, settable, times, value

HIGH = 1.5  # times the higher of its neighbours
TALL = 0.05  # of the loss at the start
RARE = 0.15  # of the epochs; more are no exceptions


def detect(run: Observations) -> Sequence[Symptom]:
    """The training loss of an epoch, but the first, is over 1.5 times those of the epochs before and after it, by over
    5% of the loss at the start. At most 15% of the epochs are so, and the run ends lower than before the last of them.
    """
    _, curve = losses(run)
    epochs, values = measured(curve)
    start = starting_loss(run)
    if len(values) < 6 or not start > 0:
        return []
    beside = [max(values[i - 1], values[i + 1]) for i in range(1, len(values) - 1)]
    high = [i for i, b in enumerate(beside, 1) if b > SMALL and values[i] > max(HIGH * b, b + TALL * start)]
    if not high or len(high) > max(RARE * len(values), 1) or last(curve) >= values[high[-1] - 1]:
        return []
    worst = max(high, key=lambda i: values[i] / beside[i - 1])
    size = f"{number(float(values[worst]))}, {times(float(values[worst] / beside[worst - 1]))} those beside it"
    more = f", and in {len(high) - 1} more" if len(high) > 1 else ""
    return [Symptom(f"The loss leapt to {size}, in epoch {int(epochs[worst])}{more}.", int(epochs[high[0]]))]


def remedy(run: Observations) -> Action:
    bound = value(run, "clip_norm")
    if bound > 0:
        return change(run, f"Clip harder: halve clip_norm, to {number(bound / 2)}.", times={"clip_norm": 1 / 2})
    _, norms = measured(run.curve("grad_norm"))
    usual = float(sorted(norms)[int(0.9 * (len(norms) - 1))]) if len(norms) else 1.0
    bound = float(f"{usual:.2g}") if usual > 0 else 1.0
    text = f"Clip gradients at {number(bound)}, where nine in ten are shorter; look at the data of those batches."
    return change(run, text, set={"clip_norm": bound} if settable(run, "clip_norm") else None)


PATHOLOGY = Pathology(
    name="spikes",
    title="Spikes of the loss",
    words="Now and then a batch with an outlying gradient throws the network back, and it recovers.",
    detect=detect,
    remedy=remedy,
    certainty=0.75,
    confused_with=("lr_too_high", "batch_too_small", "not_shuffled"),
    leads_to=("dead_units",),
    probe="lr_down",
    sources=(
        "Godbole et al. 2023, Deep Learning Tuning Playbook: gradient clipping at the 90th percentile",
        "Pascanu, Mikolov and Bengio 2013 (arXiv 1211.5063): norm clipping",
        "the thresholds: rules of thumb",
    ),
)
