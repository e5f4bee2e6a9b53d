"""Differences that are smaller than the noise."""

from __future__ import annotations

import math

from rheostat.analysis.rules.base import Advice, Evidence


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
