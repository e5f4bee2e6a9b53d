"""Inputs of unequal or extreme size."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.pathologies.bad_initialisation import guessing
from rheostat.diagnose.shapes import ratio, typical, untrained_loss
from rheostat.diagnose.wording import change, number, percent, times

FAR = 30.0  # of the typical deviation of an input, from 1
CENTRED = 10.0  # the mean of an input, in deviations
OFF = 1.5  # loss of the untrained network over that of guessing
SATURATED = 0.9  # of the first layer's tanh or sigmoid activations
LARGE = 10.0  # the first layer's gradient over the median of the others


def detect(run: Observations) -> Sequence[Symptom]:
    """A feature's mean is over ten times its deviation, or the typical deviation is not within a factor of 30 of 1; the
    first layer's gradient, which grows with the inputs, is over ten times the median of the other layers'; or
    the untrained network's loss is over 1.5 times that of guessing; or over 90% of the first layer's activations are
    saturated after the first epoch, and under half of the next one's.
    """
    found = []
    size, offset = 10.0 ** run.facts.get("input_scale", 0.0), run.facts.get("input_offset", 0.0)
    if not 1 / FAR < size < FAR:
        found.append(Symptom(f"The typical input varies by {number(size)}; the initial weights expect about 1."))
    if offset > CENTRED:
        found.append(Symptom(f"The mean of an input is {times(offset)} its standard deviation."))
    start, guess = untrained_loss(run), guessing(run)
    if guess > 0 and start > OFF * guess:
        found.append(Symptom(f"The untrained network's loss is {number(start)}, where guessing costs {number(guess)}."))
    norms = list(typical(run, "gradient_norm").values())
    others = sorted(norms[1:])
    if others and (size := ratio(norms[0], others[len(others) // 2])) > LARGE:
        found.append(Symptom(f"The first layer's gradient is {times(size)} that of the others.", 1))
    shares = [value for curve in run.layers.get("saturated", {}).values() for value in curve[:1]]
    if len(shares) > 1 and shares[0] > SATURATED and shares[1] < 0.5:
        found.append(Symptom(f"{percent(float(shares[0]))} of the first layer's activations are at their limit.", 1))
    return found


def remedy(run: Observations) -> Action:
    text = "Bring every input to mean 0 and standard deviation 1, as measured on the training data."
    return change(run, text, set={"scaling": "standardize"} if "scaling" in run.config else None)


PATHOLOGY = Pathology(
    name="input_scale",
    title="Inputs not standardised",
    words="Inputs far larger, smaller or more unequal than the usual initial weights expect: the loss is steep in some "
    "directions and flat in others, and no rate suits all.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("bad_initialisation", "lr_too_high", "lr_too_low", "saturated_units"),
    leads_to=(
        "dead_units",
        "saturated_units",
        "early_instability",
        "spikes",
        "not_learning",
        "class_collapse",
        "clipped_too_hard",
    ),
    probe="lr_down",
    sources=(
        "LeCun et al. 1998, Efficient BackProp, section 4.3: normalise the inputs",
        "Mishkin et al. 2016 (arXiv 1606.02228): 0.425 with scaled inputs, 0.379 without",
    ),
)
