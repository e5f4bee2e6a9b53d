"""Differential evolution: what is new is a good configuration moved by the difference of two others.

Storn and Price 1997, *Differential evolution*, J. Global Optimization 11; asynchronous, and for trials that are stopped
early, as in Awad, Mallik and Hutter 2021, *DEHB: evolutionary hyperband*, IJCAI.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SettingError
from rheostat.search.observations import Observer
from rheostat.search.random import each_once
from rheostat.search.sobol import Sobol
from rheostat.space import Space
from rheostat.types import Config, History

LEAST = 4  # members that rand/1 needs: a target and three others
ATTEMPTS = 20  # trial vectors before what is left of the space counts as rare

Vector = NDArray[np.float64]


class DifferentialEvolution:
    """rand/1/bin in the unit cube, with a population of `population` members.

    Trial n competes for place n mod `population`, whoever asked for it; a place belongs to the best of its trials
    (selection), and so the population follows from the history in any order of arrival.
    The first `population` trials are Sobol points bent by the priors. A later one is a member x_r1 moved by
    `weight` (x_r2 - x_r3) (mutation), whose coordinates are then mixed with those of the member at its place,
    each taken from the mutant with probability `crossover` and at least one of them (crossover). A coordinate that
    leaves the cube is drawn anew (as in DEHB); so is one that is not active in a parent.

    Categories are cells of the unit interval. Where trials are stopped early the members are compared, and parents
    taken, at the largest epoch that `population` trials have reached, as far as they were trained to it: with
    Hyperband it behaves like DEHB. What was tried already is not tried again.

    Raises SettingError for fewer than 4 members, a weight outside of (0, 2] or a crossover outside of [0, 1].
    """

    adaptive = True

    def __init__(
        self, space: Space, seed: int, population: int = 20, weight: float = 0.5, crossover: float = 0.5
    ) -> None:
        if not isinstance(population, int) or population < LEAST:
            raise SettingError(f"population={population!r} is not allowed: give a whole number, at least {LEAST}.")
        if not 0 < weight <= 2:
            raise SettingError(f"weight={weight!r} is not allowed: give a number above 0 and at most 2.")
        if not 0 <= crossover <= 1:
            raise SettingError(f"crossover={crossover!r} is not allowed: give a number from 0 to 1.")
        self.space = space
        self.population = population
        self.weight = weight
        self.crossover = crossover
        self._first = Sobol(space, seed)
        self._observer = Observer(space)

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        begun = len(history.trials)
        first = self._first.suggest(history, min(n, max(self.population - begun, 0)), rng)
        members = self._members(history) if n > len(first) else {}

        def choose(found: list[Config], known: set[str]) -> Config | None:
            if len(found) < len(first):
                return first[len(found)]
            return self._offspring(members, begun + len(found), known, rng)

        return each_once(self.space, history, n, rng, choose)

    def _members(self, history: History) -> dict[int, Vector]:
        """By place, the best of its trials; places without a good trial are left out."""
        seen = self._observer.observe(history, self.population)
        good = np.flatnonzero(np.isfinite(seen.values))
        # From the worst, so that the best stays; of equal ones the newer, which lets a plateau be crossed.
        order = good[np.lexsort((-seen.values[good], seen.epochs[good]))]
        best = {history.trials[seen.trials[i]].number % self.population: seen.points[i] for i in order}
        return dict(sorted(best.items()))

    def _offspring(
        self, members: dict[int, Vector], number: int, known: set[str], rng: np.random.Generator
    ) -> Config | None:
        """A configuration that was not tried yet; None where the members are too few, or too much alike."""
        place = number % self.population
        others = [point for other, point in members.items() if other != place]
        if len(others) < LEAST - 1 or not len(self.space):
            return None
        for _ in range(ATTEMPTS):
            config = self.space.decode(self._trial_vector(others, members.get(place), rng))
            if config.key() not in known:
                return config
        return None

    def _trial_vector(self, others: list[Vector], target: Vector | None, rng: np.random.Generator) -> Vector:
        a, b, c = (others[i] for i in rng.choice(len(others), 3, replace=False))
        fresh = rng.random(len(a))
        vector = a + self.weight * (b - c)
        if target is not None:
            crossed = rng.random(len(a)) < self.crossover
            crossed[rng.integers(len(a))] = True
            vector = np.where(crossed, vector, target)
        return np.where((vector >= 0) & (vector <= 1), vector, fresh)  # NaN, which is not active, is neither
