"""What to try next, in plain words. One rule, one function; each speaks only with evidence beyond chance.

The rules are those of the Deep Learning Tuning Playbook (Godbole et al. 2023: ranges, infeasible points, length of
training) and of our own catalogue (docs/advice.md), with tests against false alarms added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.analysis.rules.failures import few_trials, infeasible
from rheostat.analysis.rules.length import too_short, wasted
from rheostat.analysis.rules.noise import ties
from rheostat.analysis.rules.ranges import range_edges
from rheostat.space import Space
from rheostat.types import TrialRecord

MOST = 5  # pieces of advice

RULES: Sequence[Callable[[Evidence], list[Advice]]] = (  # the gravest first
    infeasible,
    few_trials,
    range_edges,
    too_short,
    wasted,
    ties,
)


def advise(
    space: Space,
    trials: Sequence[TrialRecord],
    max_epochs: int | None,
    metric: str,
    sign: int,
    validation_size: int | None,
) -> list[Advice]:
    """At most five pieces of advice, the most important first; the arguments are those of `Evidence`."""
    seen = Evidence(space, trials, max_epochs, metric, sign, validation_size)
    found = (advice for rule in RULES for advice in rule(seen))
    return [advice for advice, _ in zip(found, range(MOST), strict=False)]
