"""The gradient vanishes on its way to the first layers."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import ratio, typical
from rheostat.diagnose.wording import change, number

FAINT = 1e-2  # of the last layer's gradient


def detect(run: Observations) -> Sequence[Symptom]:
    """The first layer's gradient is, over the epochs at which it was observed, in the median below a hundredth of
    the last layer's.
    """
    norms = list(typical(run, "gradient_norm").values())
    if len(norms) < 3 or not 0 < (share := ratio(norms[0], norms[-1])) < FAINT:
        return []
    return [Symptom(f"The first layer's gradient is {number(1 / share, 2)} times smaller than the last layer's.", 1)]


def remedy(run: Observations) -> Action:
    if run.config.get("cell") == "vanilla":
        return change(run, "Use LSTM or GRU cells.", set={"cell": "lstm"})
    if "norm" in run.config and run.config["norm"] == "none":
        return change(run, "Add a norm layer before each activation.", set={"norm": "batch"})
    if run.config.get("activation") in ("sigmoid", "tanh"):
        return change(run, "Use rectified units.", set={"activation": "relu"})
    return Action("Add residual connections or norm layers, use rectified units, or fewer layers.")


PATHOLOGY = Pathology(
    name="vanishing_gradient",
    title="Vanishing gradient",
    words="The gradient shrinks from layer to layer on its way back, so that the first layers hardly learn.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("lr_too_low", "saturated_units", "frozen_layer", "dead_units", "bad_initialisation"),
    leads_to=("not_learning", "class_collapse"),
    probe="lr_up",
    sources=(
        "Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward networks, section 4.2",
        "AutoTrainer (Zhang et al. 2021): first over last layer below 1e-3; a hundredth here, since the trainer's "
        "norms are of whole layers",
    ),
)
