"""From coarse to fine: a few points over the whole space, then closer ones along the hyperparameter that matters most.

For the short, equal searches of a comparison, in which the learning rate is what has to be found. Goodfellow et al.
2016, *Deep learning*, 11.4.3: a coarse grid on a log scale, shifted where its best value lies at an end, then refined
around the best. The points are those of Halton 1960, shifted at random (Cranley and Patterson 1976), which the Deep
Learning Tuning Playbook recommends for exploration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from rheostat.space import Float, Int, Space
from rheostat.types import Config, History, Status, TrialRecord

LEAST_COARSE = 4  # trials, below which the best of them says too little to go on from
MOST_WIDER = 3  # trials beyond those of the budget
WIDER = math.sqrt(10)  # half a decade
POINTS = 50  # for each trial, after which a finite space counts as used up


class Zoom:
    """`trials` configurations: two thirds over the space, bent by its priors, the others close to the best of those.

    The close ones differ from the best in one hyperparameter, `along` (without it the first that is a number): half
    way to its neighbours among the values tried. Where the best has no neighbour on one side, up to three more
    trials go half a decade further each, out of the range if need be, until it has one; that takes a log
    scale. Of fewer than six trials none is close, and fewer than four are not widened.

    The first two thirds depend on the space and `seed` alone: studies of like spaces share them.
    """

    adaptive = True

    def __init__(self, space: Space, trials: int, seed: int, along: str = "") -> None:
        numbers = [name for name, part in space.tuned.items() if isinstance(part, Float | Int)]
        self.space = space
        self.seed = seed
        self.along: str = along if along in numbers else next(iter(numbers), "")
        self.close = 2 * (trials // 6) if self.along else 0
        self.coarse = trials - self.close

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        known = {trial.config.key() for trial in history.trials}
        missing = [config for config in self.first if config.key() not in known]
        if missing:
            return missing[:n]
        trained = [trial for trial in history.trials if self.along in trial.config]
        if not trained or self.coarse < LEAST_COARSE or not all(trial.status.ended for trial in trained):
            return []
        best = min(trained, key=self._order)
        values = sorted({trial.config[self.along] for trial in trained})
        place = values.index(best.config[self.along])
        beyond = [is_wider for _, is_wider in self._beyond(trial.config for trial in trained)]
        wider, closer = sum(beyond), len(beyond) - sum(beyond)
        at_an_end = place in (0, len(values) - 1)
        if at_an_end and wider < MOST_WIDER and self._is_log:
            found = [values[place] * (WIDER if place else 1 / WIDER)]
        else:
            around = values[max(place - 1, 0) : place + 2]
            found = [self._middle(*pair) for pair in pairwise(around)][: max(self.close - closer, 0)]
        configs = [Config({**best.config, self.along: self._rounded(value)}) for value in found]
        return [config for config in configs if config.key() not in known][:n]

    def wider(self, configs: Iterable[Config]) -> list[int]:
        """Of configurations in the order of their trials, the numbers of those beyond the budget."""
        return [number for number, is_wider in self._beyond(configs) if is_wider]

    @cached_property
    def first(self) -> list[Config]:
        """The coarse configurations, each once."""
        return list(islice(self._distinct(), self.coarse))

    def _distinct(self) -> Iterator[Config]:
        dimensions = max(len(self.space), 1)
        shift = np.random.default_rng(self.seed).random(dimensions)
        met: set[str] = set()
        for point in (_halton(dimensions, POINTS * self.coarse) + shift) % 1:
            config = self.space.decode(point[: len(self.space)], prior=True)
            if config.key() not in met:
                met.add(config.key())
                yield config

    def _beyond(self, configs: Iterable[Config]) -> Iterator[tuple[int, bool]]:
        """The numbers of those after the coarse ones, and whether each lies outside of all before it."""
        coarse = {config.key() for config in self.first}
        low, high = math.inf, -math.inf
        for number, config in enumerate(configs):
            if self.along in config:
                value = config[self.along]
                if config.key() not in coarse:
                    yield number, not low <= value <= high
                low, high = min(low, value), max(high, value)

    def _order(self, trial: TrialRecord) -> tuple[bool, float, float]:
        """Diverged trials last; among nothing but those the lowest value is the one to go on from."""
        bad = trial.status in (Status.INFEASIBLE, Status.FAILED) or trial.best == math.inf
        return bad, math.inf if bad else trial.best, trial.config[self.along]

    @property
    def _is_log(self) -> bool:
        part = self.space.tuned[self.along]
        return isinstance(part, Float | Int) and part.log

    def _middle(self, one: float, other: float) -> float:
        return math.sqrt(one * other) if self._is_log else (one + other) / 2

    def _rounded(self, value: float) -> float | int:
        whole = isinstance(self.space.tuned[self.along], Int)
        return max(round(value), 1) if whole else float(f"{value:.4g}")


@cache
def _halton(dimensions: int, points: int) -> NDArray[np.float64]:
    """The first points of the Halton sequence, shape (points, dimensions)."""
    from scipy.stats import qmc

    found: NDArray[np.float64] = qmc.Halton(dimensions, scramble=False).random(points)
    found.setflags(write=False)
    return found
