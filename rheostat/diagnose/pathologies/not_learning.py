"""Nothing but the frequencies of the classes was learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import breakdown, last, lowest, measured
from rheostat.diagnose.wording import number

CLOSE = 0.02  # of the loss of one who knows the frequencies alone
FEWEST = 3  # epochs


def detect(run: Observations) -> Sequence[Symptom]:
    """After three epochs or more, a tenth of the run at least, neither training nor validation loss is below 98% of
    that of one who knows the frequencies of the classes alone.
    """
    prior = run.facts.get("prior_loss", math.nan)
    trained, validated = run.curve("train_loss"), run.curve("val_loss")
    epochs, _ = measured(trained)
    if not prior > 0 or len(epochs) < max(FEWEST, 0.1 * run.max_epochs) or breakdown(run) is not None:
        return []
    low = lowest(trained)
    if low < (1 - CLOSE) * prior or lowest(validated) < (1 - CLOSE) * prior:
        return []
    text = f"After {len(trained)} epochs the loss is {number(last(trained))}; knowing the frequencies of the classes"
    return [Symptom(f"{text} alone gives {number(prior)}.", 1)]


def remedy(run: Observations) -> Action:
    return Action(
        "See whether the network can learn 20 examples by heart. If not, check that labels belong to their inputs, "
        "and try rates from 1e-4 to 1."
    )


PATHOLOGY = Pathology(
    name="not_learning",
    title="Not learning",
    words="The network predicts no more than how common each class is: nothing of the inputs reaches its outputs.",
    detect=detect,
    remedy=remedy,
    certainty=0.3,  # in runs of which the cause is known it was mostly a symptom
    confused_with=("lr_too_low", "lr_too_high", "dead_units", "vanishing_gradient"),
    leads_to=("class_collapse",),
    probe="lr_up",
    sources=(
        "Karpathy 2019, A recipe for training neural networks: compare with zeroed inputs, overfit one batch",
        "cs231n, Neural networks 3: overfit a tiny subset of the data",
    ),
)
