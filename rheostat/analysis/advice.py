"""What to try next, in plain words. One rule, one function; each speaks only with evidence beyond chance.

The rules are those of the Deep Learning Tuning Playbook (Godbole et al. 2023: ranges, infeasible points, length of
training) and of our own catalogue (docs/advice.md), with tests against false alarms added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from rheostat.analysis.rules.base import Advice, Evidence, Forecast
from rheostat.analysis.rules.effort import going_on
from rheostat.analysis.rules.failures import few_trials, infeasible
from rheostat.analysis.rules.length import short_runs_mislead, too_short, wasted
from rheostat.analysis.rules.noise import seed_noise, ties
from rheostat.analysis.rules.ranges import log_scale, range_edges
from rheostat.analysis.rules.relevance import irrelevant
from rheostat.analysis.rules.stability import infeasible_beyond, unstable_optimum
from rheostat.space import Space
from rheostat.types import TrialRecord

MOST = 5  # pieces of advice

RULES: Sequence[Callable[[Evidence], list[Advice]]] = (  # the gravest first
    infeasible,
    few_trials,
    log_scale,
    range_edges,
    infeasible_beyond,
    unstable_optimum,
    short_runs_mislead,
    too_short,
    wasted,
    ties,
    seed_noise,
    irrelevant,
    going_on,
)


def advise(
    space: Space,
    trials: Sequence[TrialRecord],
    max_epochs: int | None,
    metric: str,
    sign: int,
    validation_size: int | None,
    forecast: Forecast | None = None,
) -> list[Advice]:
    """At most five pieces of advice, the most important first; the arguments are those of `Evidence`."""
    seen = Evidence(space, trials, max_epochs, metric, sign, validation_size, forecast)
    return list(islice((advice for rule in RULES for advice in rule(seen)), MOST))
