"""What is scored: a diagnosis of ours, and the published rules."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.pathologies.published import RULES
from benchmarks.pathologies.score import Diagnoser, as_scores
from rheostat.diagnose.base import HEALTHY, Diagnosis, Observations


def published() -> dict[str, Diagnoser]:
    """Each published set."""
    return {name: _ranking(rule) for name, rule in RULES.items()}


def _ranking(rule: Callable[[Observations], list[str]]) -> Diagnoser:
    return lambda run: as_scores(rule(run.observations))


def said(diagnosis: Diagnosis) -> dict[str, float]:
    """The probabilities of a diagnosis."""
    return {HEALTHY: diagnosis.healthy, **{cause.name: cause.probability for cause in diagnosis.causes}}
