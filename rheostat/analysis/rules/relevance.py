"""Hyperparameters that do not matter."""

from __future__ import annotations

from rheostat.analysis.importance import Importances, importance
from rheostat.analysis.rules.base import Advice, Evidence

HARDLY = 0.05  # of the variance of the results: what explains less does not matter
GOOD = 0.25  # of the trials: what tells these apart matters, whatever it does elsewhere
MATTERS = 0.1  # something must, else the results are noise and say nothing of any


def _explains(found: Importances | None, name: str) -> float:
    """At most; everything where that is not known."""
    if found is None:
        return 1.0
    return found[name].most if found.pairs else found[name].high


def irrelevant(seen: Evidence) -> list[Advice]:
    """Hyperparameters that explain less than 5 % of the results, also together with others, with 95 % confidence.

    So must it be over all trials, and among the best quarter: one that only tells good configurations apart explains
    little of a space in which most are bad.

    With 60 trials nothing can be so sure; it takes some 200 for eight hyperparameters. Where there were too few to
    look at pairs, what one explains alone must do.
    """
    found = importance(seen.space, seen.trials) if seen.best else None
    if found is None or max(one.low for one in found.each) < MATTERS:
        return []
    best = seen.best[0].config
    good = importance(seen.space, seen.trials, GOOD)
    idle = [
        one
        for one in found.each
        if one.hyperparameter in best and all(_explains(each, one.hyperparameter) < HARDLY for each in (found, good))
    ]
    if not idle:
        return []
    values = {one.hyperparameter: best[one.hyperparameter] for one in idle}
    words = ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
    them = "it" if len(idle) == 1 else "each of them"
    text = (
        f"{', '.join(values)} hardly matter{'s' * (len(idle) == 1)} in this space: {them} explains less than "
        f"{HARDLY:.0%} of the differences between {found.trials} trials, {found.each[0].hyperparameter} "
        f"{found.each[0].share:.0%}. Fix {'it' if len(idle) == 1 else 'them'} ({words}), and tune what matters."
    )
    return [Advice("irrelevant", text, idle[0].hyperparameter, values)]
