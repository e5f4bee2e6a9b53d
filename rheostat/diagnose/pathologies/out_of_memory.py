"""Memory ran out."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose import shapes
from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.wording import change, multiplied


def detect(run: Observations) -> Sequence[Symptom]:
    """The run was ended because memory ran out."""
    return [Symptom(f"It ended with: {run.reason.splitlines()[0]}.", run.epochs)] if shapes.out_of_memory(run) else []


def remedy(run: Observations) -> Action:
    text = (
        f"Halve the batch size{multiplied(run, 'batch_size', 1 / 2)}, and double accumulate to keep the updates as "
        "they were."
    )
    factors = {"batch_size": 1 / 2, "accumulate": 2.0}
    return change(run, text, times=factors, set={} if "accumulate" in run.config else {"accumulate": 2})


PATHOLOGY = Pathology(
    name="out_of_memory",
    title="Out of memory",
    words="The network, its gradients and the activations of a batch did not fit into memory together.",
    detect=detect,
    remedy=remedy,
    certainty=1.0,
    leads_to=("too_short", "diverged"),
    sources=("Godbole et al. 2023, Deep Learning Tuning Playbook: the batch size is first a matter of memory",),
)
