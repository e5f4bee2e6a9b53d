"""Batches so large that too few updates are made."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.wording import change, multiplied, number, value

FEW = 10  # updates in an epoch


def detect(run: Observations) -> Sequence[Symptom]:
    """Fewer than ten updates are made in an epoch."""
    steps = run.facts.get("steps_per_epoch", 0.0)
    if not 0 < steps < FEW or not run.epochs:
        return []
    size = value(run, "batch_size")
    batch = f"With batches of {number(size)} there" if size > 0 else "There"
    updates = f"{number(steps)} update{'s' if steps != 1 else ''} in an epoch, {number(steps * run.epochs)} in all"
    return [Symptom(f"{batch} {'were' if steps != 1 else 'was'} only {updates}.", 1)]


def remedy(run: Observations) -> Action:
    text = f"Divide the batch size by 4{multiplied(run, 'batch_size', 1 / 4)}, at the same learning rate."
    return change(run, text, times={"batch_size": 1 / 4})


PATHOLOGY = Pathology(
    name="batch_too_large",
    title="Batch too large",
    words="Each update averages over more examples than it needs, so that an epoch makes few of them.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("too_short", "lr_too_low"),
    leads_to=("not_learning",),
    probe="lr_up",
    sources=(
        "Masters and Luschi 2018 (arXiv 1804.07612): at equal epochs, batches of 2 to 32 do best",
        "McCandlish et al. 2018 (arXiv 1812.06162): the critical batch size",
        "Mishkin et al. 2016 (arXiv 1606.02228): at the same rate, 0.419 with batches of 1,024, 0.471 with 256",
    ),
)
