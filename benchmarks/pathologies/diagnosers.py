"""What is scored: our diagnosis, with and without counterfactuals, and the published rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.pathologies.published import RULES
from benchmarks.pathologies.score import REST, Diagnoser, as_scores
from rheostat.diagnose.base import HEALTHY, Diagnosis, Observations
from rheostat.diagnose.classifier import probabilities
from rheostat.diagnose.diagnosis import diagnose

Probabilities = Callable[[Observations, Mapping[str, float] | None], Mapping[str, float]]


def published() -> dict[str, Diagnoser]:
    """Each published set."""
    return {name: _ranking(rule) for name, rule in RULES.items()}


def _ranking(rule: Callable[[Observations], list[str]]) -> Diagnoser:
    return lambda run: as_scores(rule(run.observations))


def ours(probabilities: Probabilities = probabilities) -> dict[str, Diagnoser]:
    """Our diagnosis of a run alone, and with its counterfactuals, which judges only runs that have some.

    `probabilities` are those of the classifier that is shipped, or of another fit.
    """
    return {
        "Rheostat": lambda run: said(diagnose(run.observations, probabilities(run.observations, None))),
        "Rheostat with probes": lambda run: (
            said(diagnose(run.observations, probabilities(run.observations, run.probe))) if run.probe else {}
        ),
    }


def said(diagnosis: Diagnosis) -> dict[str, float]:
    """The probabilities of a diagnosis; what it leaves unsaid is given to no cause."""
    found = {HEALTHY: diagnosis.healthy, **{cause.name: cause.probability for cause in diagnosis.causes}}
    return {**found, REST: max(1 - sum(found.values()), 0.0)}
