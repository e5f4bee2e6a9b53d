"""The learning rate is lowered while the loss still falls."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import log_slope, losses, measured
from rheostat.diagnose.wording import change, number, percent

LOW, LONG = 0.05, 0.3  # of the highest rate, and for how much of the run
STEEP = 0.02  # fall in an epoch before


def detect(run: Observations) -> Sequence[Symptom]:
    """The learning rate is below 5% of its highest value for over 30% of the run, and until then the loss fell by
    over 2% an epoch, and since then by less than a third of that.
    """
    rates = run.curve("lr")
    epochs, values = measured(rates)
    if len(epochs) < 4:
        return []
    top = int(values.argmax())
    low = (values < LOW * values[top]) & (epochs > epochs[top])
    if not low.any() or low.mean() <= LONG:
        return []
    since = int(epochs[low.argmax()])
    _, curve = losses(run)
    before, after = -log_slope(curve[: max(since - 1, 2)]), -log_slope(curve[since - 1 :])
    if not before > max(STEEP, 3 * after):
        return []
    text = f"The rate was below {percent(LOW)} of its top from epoch {since} of {len(rates)}"
    return [Symptom(f"{text}, when the loss fell by {percent(before)} an epoch; since then by {_fall(after)}.", since)]


def _fall(share: float) -> str:
    return percent(share) if share > 0 else number(0.0)


def remedy(run: Observations) -> Action:
    if run.config.get("optimizer") == "adagrad":
        text = "Use AdamW: Adagrad's steps only ever shrink."
        return change(run, text, set={"optimizer": "adamw", "lr": 0.003})
    if run.config.get("schedule") == "cosine":
        return change(run, "Keep the rate until the last fifth of the run, then lower it.", set={"schedule": "wsd"})
    text = "Lay the schedule out over the whole run: a cosine to its last epoch."
    return change(run, text, set={"schedule": "cosine"})


PATHOLOGY = Pathology(
    name="decay_too_early",
    title="Rate lowered too early",
    words="The learning rate was cut while the loss was still falling, and with it the progress.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_low", "too_short", "too_small"),
    leads_to=("too_short",),
    probe="lr_up",
    sources=(
        "Karpathy 2019, A recipe for training neural networks: a decay taken from other data can drive the rate to 0",
        "cs231n, Neural networks 3: Adagrad's monotonic rate usually stops learning too early",
        "the thresholds: rules of thumb",
    ),
)
