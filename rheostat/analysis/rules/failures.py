"""Trials that gave nothing: which part of the space is to blame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rheostat.analysis.rules.base import BAD, FEW_TRIALS, SIGNIFICANCE, Advice, Evidence
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Status, TrialRecord


def infeasible(seen: Evidence) -> list[Advice]:
    """More than half failed or diverged: the space is wrong, or the code is."""
    tried = [t for t in seen.trials if t.epochs or t.status in BAD]  # a paused trial is feasible, too
    bad = [t for t in tried if t.status in BAD]
    if len(bad) < 3 or 2 * len(bad) <= len(tried):
        return []
    reason = Counter(t.reason for t in bad if t.reason).most_common(1)
    why = f", most often: {reason[0][0]}" if reason else ""
    text = f"{len(bad)} of {len(tried)} trials failed or diverged{why}."
    culprit = _separator(seen.space, tried)
    if culprit is None:
        return [Advice("infeasible", f"{text} No single hyperparameter explains it: check the model and the data.")]
    name, words, change = culprit
    return [Advice("infeasible", f"{text} Nearly all of them have {words}: leave that out.", name, {name: change})]


def _separator(space: Space, tried: Sequence[TrialRecord]) -> tuple[str, str, dict[str, Any]] | None:
    """The hyperparameter that tells bad trials from good ones: its name, the bad values, the good part."""
    everywhere = {n: p for n, p in space.tuned.items() if all(n in t.config for t in tried)}
    found = []
    for name, part in everywhere.items():
        result = _split_choice(name, part, tried) if isinstance(part, Choice) else _split_range(name, part, tried)
        if result is not None and result[1] < SIGNIFICANCE / len(everywhere):
            found.append((result[0], name, *result[2:]))
    if not found:
        return None
    errors, name, words, change = min(found, key=lambda f: f[:2])
    return (name, words, change) if errors <= 0.1 * len(tried) else None


def _split_range(
    name: str, part: Float | Int, tried: Sequence[TrialRecord]
) -> tuple[int, float, str, dict[str, Any]] | None:
    """The threshold that misjudges the fewest trials: how many, the p-value, the bad side, the good range."""
    from scipy import stats

    values = np.array([float(t.config[name]) for t in tried])
    bad = np.array([t.status in BAD for t in tried])
    if bad.all() or np.ptp(values) == 0:
        return None
    p = float(stats.mannwhitneyu(values[bad], values[~bad], alternative="two-sided").pvalue)
    good_values = np.unique(values[~bad])
    above = [int((bad != (values > v)).sum()) for v in good_values]  # misjudged, were all above v bad
    below = [int((bad != (values < v)).sum()) for v in good_values]
    if min(above) <= min(below):
        edge = _rounded(part, float(good_values[int(np.argmin(above))]))
        return min(above), p, f"{name} above {edge:.4g}", {"low": part.low, "high": edge}
    edge = _rounded(part, float(good_values[len(below) - 1 - int(np.argmin(below[::-1]))]))
    return min(below), p, f"{name} below {edge:.4g}", {"low": edge, "high": part.high}


def _split_choice(
    name: str, part: Choice, tried: Sequence[TrialRecord]
) -> tuple[int, float, str, dict[str, Any]] | None:
    """The one value that misjudges the fewest trials; see `_split_range`."""
    from scipy import stats

    found = []
    for value in part.values:
        table = Counter((t.status in BAD, t.config[name] == value) for t in tried)
        misjudged = table[True, False] + table[False, True]
        counts = [[table[True, True], table[True, False]], [table[False, True], table[False, False]]]
        p = float(stats.fisher_exact(counts, alternative="greater").pvalue) * len(part.values)
        rest = [v for v in part.values if v != value]
        found.append((misjudged, p, f"{name}={value}", {"values": rest}))
    return min(found, key=lambda f: f[:2]) if len(part.values) > 1 else None


def _rounded(part: Float | Int, value: float) -> float | int:
    inside = min(max(float(f"{value:.2g}"), part.low), part.high)
    return int(value) if isinstance(part, Int) else inside


def few_trials(seen: Evidence) -> list[Advice]:
    """Random points: n of them hit the best share q of a space with probability 1 - (1 - q)^n."""
    trials = seen.trials
    n = sum(t.epochs > 0 or t.status is Status.INFEASIBLE for t in trials if t.status is not Status.FAILED)
    if not trials or n >= FEW_TRIALS:
        return []
    chance = 1 - 0.95**n
    text = (
        f"Only {n} trial{'' if n == 1 else 's'} gave a result: the chance that one lies in the best 5% of the "
        f"space is {chance:.0%}; with 59 it would be 95%."
    )
    return [Advice("few trials", text)]
