"""Which of several finalists is best? Repeats are added in rounds, and who is beaten beyond noise drops out.

A race as in Birattari et al. 2002, *A racing algorithm for configuring metaheuristics*, GECCO, with Welch's t test in
place of Friedman's, since a few repeats of two or three finalists have no power by ranks, and seeds are not shared. The
chance that any of equal finalists is called better than another, at any look, is at most the level: within a look by
Holm 1979 over all pairs, since which finalist leads is seen in the same data; over looks by Bonferroni.

Values are minimised in here, as everywhere inside; NaN is a repeat that diverged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rheostat.analysis.comparison import Array, holm, resolution

LOOKS = (3, 5, 8, 12)  # repeats of each finalist that is left, at which they are compared
ALONE = 5  # repeats of the one that is left, so that its mean is known

Repeat = Callable[[Sequence[int], int], Sequence[Array] | None]


@dataclass(frozen=True)
class Race:
    """How a race went: who is left, with how many repeats each, and at how many the others dropped out.

    `trained` is how many trainings that took; not `finished` where one was interrupted.
    """

    left: tuple[int, ...]
    repeats: int
    dropped: Mapping[int, int]
    trained: int
    finished: bool = True


def race(finalists: int, budget: int, level: float, repeat: Repeat) -> Race:
    """Race finalists, the numbers from 0, for at most `budget` trainings.

    `repeat(left, n)` trains until each of these has n repeats and gives the first n of each; None where it was
    interrupted.
    """
    level = level / looks_within(finalists, budget)
    left, done, trained, dropped = tuple(range(finalists)), 0, 0, dict[int, int]()
    for look in LOOKS:
        cost = len(left) * (look - done)
        if len(left) == 1 or trained + cost > budget:
            break
        found = repeat(left, look)
        if found is None:
            return Race(left, done, dropped, trained, finished=False)
        done, trained = look, trained + cost
        out = [i for i, worse in zip(left, beaten(found, level), strict=True) if worse]
        dropped |= dict.fromkeys(out, look)
        left = tuple(i for i in left if i not in out)
    more = min(ALONE - done, budget - trained)
    if len(left) > 1 or more <= 0:
        return Race(left, done, dropped, trained)
    if repeat(left, done + more) is None:
        return Race(left, done, dropped, trained, finished=False)
    return Race(left, done + more, dropped, trained + more)


def looks_within(finalists: int, budget: int) -> int:
    """How many looks a race has at most with this many trainings: where all but two drop out at the first.

    >>> looks_within(2, 9), looks_within(2, 10), looks_within(5, 15)
    (1, 2, 1)
    """
    costs = [finalists * LOOKS[0] + 2 * (look - LOOKS[0]) for look in LOOKS]
    return max(sum(cost <= budget for cost in costs), 1)


def beaten(repeats: Sequence[Array], level: float) -> list[bool]:
    """Which finalists are worse than another beyond noise. Each has its repeats, (S,).

    One that has fewer than two values left, because the others diverged, is beaten where another has two; one of
    which more repeats diverged beats nobody of which fewer did.

    >>> beaten([np.array([0.20, 0.21, 0.19]), np.array([0.30, 0.31, 0.30]), np.array([0.21, 0.20, 0.20])], 0.05)
    [False, True, False]
    """
    values = [found[~np.isnan(found)] for found in repeats]
    lost = [len(found) - len(left) for found, left in zip(repeats, values, strict=True)]
    able = [i for i, left in enumerate(values) if len(left) > 1]
    if not able:
        return [False] * len(values)
    worse = [i not in able for i in range(len(values))]
    step = resolution(repeats)
    pairs = list(combinations(able, 2))
    for (i, j), p in zip(pairs, holm([welch(values[i], values[j], step) for i, j in pairs]), strict=True):
        better, other = (i, j) if values[i].mean() < values[j].mean() else (j, i)
        if p <= level and lost[better] <= lost[other]:
            worse[other] = True
    return worse


def welch(one: Array, other: Array, step: float = 0.0) -> float:
    """The probability of means as far apart where they are equal: Welch 1947, two-sided; samples (S,) of two or more.

    Values are known to `step`, so none has less variance than a uniform error of that width (Sheppard's correction).
    """
    from scipy import special

    gap = float(one.mean() - other.mean())
    parts = [max(float(found.var(ddof=1)), step**2 / 12) / len(found) for found in (one, other)]
    error = sum(parts)
    if gap == 0 or error == 0:
        return 1.0 if gap == 0 else 0.0
    freedom = error**2 / sum(part**2 / (len(found) - 1) for part, found in zip(parts, (one, other), strict=True))
    return 2 * float(special.stdtr(freedom, -abs(gap) / math.sqrt(error)))
