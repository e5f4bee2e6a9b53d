"""cs231n: Karpathy et al., *Convolutional neural networks for visual recognition*, Stanford, course notes.

neural-networks-3: sanity checks (the loss at the start is that of chance), the loss curve (a very high rate blows up, a
low one falls in a straight line), the gap between training and validation accuracy, and updates about a thousandth of
the weights; neural-networks-1: as much as 40 % of units can be dead where the rate is too high. The notes name
the ratio (1e-3) and the 40 %; where they say no number, it is ours: a band of ten times either way, half of ln C
for the loss at the start, 0.1 for the gap, a second half that falls at least 0.9 times as far as the first for a
straight line. That validation tracks training too well, too small a network, cannot be told without knowing how
good is good, and is left out.
"""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from benchmarks.pathologies.published.reading import accuracy, by_epoch, ranked
from rheostat.diagnose.base import Observations
from rheostat.diagnose.shapes import breakdown, last, measured, untrained_loss

RATIO, BAND = 1e-3, 10.0
DEAD_SHARE = 0.4
OFF_AT_START = 0.5
GAP = 0.1
STRAIGHT = 0.9


def causes(run: Observations) -> list[str]:
    """What a reader of the notes would say, from what is decisive to what is a hint."""
    start, chance = untrained_loss(run), math.log(max(run.facts.get("classes", math.nan), 1.0))
    _, losses = measured(run.curve("train_loss"))
    found = []
    if breakdown(run) is not None or (len(losses) > 1 and losses[-1] > start):
        found.append("diverged")
    if abs(start - chance) > OFF_AT_START * chance:
        found.append("bad_initialisation")
    if any(share > DEAD_SHARE for shares in by_epoch(run, "dead") for share in shares):
        found.append("dead_units")
    ratios = [ratio for row in by_epoch(run, "update_ratio") for ratio in row]
    if ratios and median(ratios) > RATIO * BAND:
        found.append("lr_too_high")
    if (ratios and median(ratios) < RATIO / BAND) or _straight(losses):
        found.append("lr_too_low")
    if last(accuracy(run, "train")) - last(accuracy(run, "val")) > GAP:
        found.append("overfitting")
    return ranked(found)


def _straight(losses: np.ndarray) -> bool:
    """Whether the loss falls about as far in the second half as in the first."""
    if len(losses) < 4:
        return False
    middle = losses[len(losses) // 2]
    return bool(losses[0] > middle and losses[0] - middle <= (middle - losses[-1]) / STRAIGHT)
