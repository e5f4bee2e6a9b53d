"""Differences that are smaller than the noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.analysis.rules.length import anneals
from rheostat.types import TrialRecord

FEWEST_CHANGES = 8  # from epoch to epoch, or repeats of configurations


def ties(seen: Evidence) -> list[Advice]:
    """Trials that the validation set is too small to tell from the best one.

    For a share p of errors among n examples. The difference of two networks judged on the same examples has
    the variance (share of examples on which one alone errs) / n (McNemar 1947). Where they have half of their
    errors in common that is about p (1 - p) / n, half of what it is for independent ones.
    """
    best, validation_size = seen.best, seen.validation_size
    if not best or not validation_size or not seen.is_rate:
        return []
    rates = [t.best + (1.0 if seen.sign < 0 else 0.0) for t in best]
    counts = [rate * validation_size for rate in rates]
    if rates[0] < 0 or rates[0] > 1 or any(abs(c - round(c)) > 0.01 for c in counts[:10]):
        return []  # not a share of the validation examples: an error of another kind, such as a squared one
    p = min(max(rates[0], 1 / validation_size), 0.5)  # no error at all does not mean no noise
    noise = 2 * math.sqrt(p * (1 - p) / validation_size)
    tied = [t for t, rate in zip(best, rates, strict=True) if rate - rates[0] <= noise][1:]
    if not tied:
        return []
    numbers = ", ".join(str(t.number) for t in tied[:5]) + (" ..." if len(tied) > 5 else "")
    are = "trial is" if len(tied) == 1 else "trials are"
    text = (
        f"{len(tied)} {are} tied with the best, trial {best[0].number}: they differ from it by less than the "
        f"noise of {validation_size} validation examples ({100 * noise:.1f} points, two standard errors). "
        f"Prefer the cheapest ({numbers})."
    )
    return [Advice("tie", text)]


def seed_noise(seen: Evidence) -> list[Advice]:
    """The best trial leads the second by less than another seed would change.

    Where configurations were repeated, their spread tells that noise; else that of the top trials from epoch to epoch,
    at a constant learning rate in the last half of training, is a floor of it, since another seed changes at least as
    much as another epoch does. Silent where `ties` speaks, and where the lead exceeds two standard errors of a
    difference.
    """
    if len(seen.best) < 2 or ties(seen):
        return []
    lead = seen.best[1].best - seen.best[0].best
    noise, source = _of_repeats(seen.best)
    if not noise:
        noise, source = _of_epochs(seen.top)
    if not noise or lead >= 2 * math.sqrt(2) * noise:
        return []
    close = sum(t.best - seen.best[0].best < 2 * math.sqrt(2) * noise for t in seen.best[1:])
    text = (
        f"Trial {seen.best[0].number} leads by {lead:.2g}, but {source} changes {seen.metric} by {noise:.2g} (one "
        f"standard deviation): {close} other trial{'s are' if close > 1 else ' is'} as good for all that is known. "
        "Repeat the best few with other seeds before you choose (--confirm)."
    )
    return [Advice("seed noise", text)]


def _of_repeats(trials: Sequence[TrialRecord]) -> tuple[float, str]:
    """The standard deviation within configurations that were tried more than once; 0 without enough of them."""
    groups = defaultdict(list)
    for trial in trials:
        groups[trial.config.key(), trial.epochs].append(trial.best)
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if freedom < FEWEST_CHANGES:
        return 0.0, ""
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in repeated)
    return math.sqrt(squares / freedom), "another seed"


def _of_epochs(top: Sequence[TrialRecord]) -> tuple[float, str]:
    """The spread of values about their trend, from second differences, which a straight trend leaves at 0."""
    changes: list[NDArray[np.float64]] = []
    for trial in top:
        if anneals(trial.config):
            continue
        last = np.array(trial.values[trial.epochs // 2 :])
        if len(last) >= 3 and np.isfinite(last).all():
            changes.append(np.diff(last, 2))
    together = np.concatenate(changes) if changes else np.empty(0)
    if len(together) < FEWEST_CHANGES:
        return 0.0, ""
    # The variance of x - 2 y + z is six times that of each; von Neumann et al. 1941 for first differences.
    return math.sqrt(float(np.mean(together**2)) / 6), "one more epoch at a constant rate"
