"""Evolution of a normal distribution: CMA-ES, with the package `cmaes`.

Hansen 2016, *The CMA evolution strategy: a tutorial*, arXiv:1604.00772. Whole numbers and categories as in Hamano et
al. 2025, *CatCMA with margin*, arXiv:2504.07884 (`cmaes.CatCMAwM`): one normal distribution over all numbers, whose
steps stay wide enough to leave a whole number, and a probability for each category. Restarts with larger populations
as in Auger and Hansen 2005, *A restart CMA evolution strategy with increasing population size* (IPOP), CEC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cmaes import CatCMAwM  # type: ignore[import-untyped]
from numpy.typing import NDArray

from rheostat.errors import SettingError
from rheostat.search.observations import Observer
from rheostat.search.random import each_once
from rheostat.space import Choice, Float, Hyperparameter, Space
from rheostat.types import Config, History, derive_seed

LEAST = 4  # configurations in a generation: two parents, and two that are not
MOST_LEVELS = 64  # values of a number, above which it counts as continuous
RESOLUTION = 1e-3  # of a range: finer differences between the members of a generation matter to nobody
REPEATS = 20  # of a generation, without a new configuration, before what is left of the space counts as rare

Array = NDArray[np.float64]


class CMAES:
    """Draws configurations from a distribution that moves to where the good ones were, a generation at a time.

    The distribution is replayed from the history: the trials that have values, in order of number, are the
    generations. Only their order within a generation is told (the method needs no more), at the largest epoch that a
    generation has reached. A trial that the distribution did not draw, such as a user's own or one of an earlier
    generation that came late, is told as the nearest point within the range of its generation: no single one carries
    the distribution away. Trials in flight wait for nobody: while a generation is incomplete more is drawn from it.

    It begins at the medians and widths of the priors. When a generation has shrunk to a thousandth of every range, or
    the package's own criteria hold, it begins again at a point drawn from the priors, with a population twice as
    large. Hyperparameters that a condition switches off drift. What was tried already is not tried again.

    `population` is that of the first run; by default 4 + 3 ln(dimensions). Raises SettingError for less than 4.

    The last distribution is kept with all that it was told, and depends on that, the space and `seed` alone.
    """

    adaptive = True

    def __init__(self, space: Space, seed: int, population: int | None = None) -> None:
        if population is not None and (not isinstance(population, int) or population < LEAST):
            raise SettingError(f"population={population!r} is not allowed: give a whole number, at least {LEAST}.")
        self.space = space
        self.seed = seed
        self.coordinates = Coordinates.of(space)
        self.population = population or 4 + math.floor(3 * math.log(max(len(self.coordinates), 1)))
        self._observer = Observer(space)
        self._evolution: Evolution | None = None

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        drawn: Iterator[Config] = iter(())
        if len(self.coordinates):
            evolution = self._replayed(history)
            fresh = len(history.trials) - evolution.begun  # may have been drawn from this very distribution
            drawn = map(evolution.draw, range(fresh + REPEATS * evolution.size))

        def choose(_: list[Config], known: set[str]) -> Config | None:
            return next((config for config in drawn if config.key() not in known), None)

        return each_once(self.space, history, n, rng, choose)

    def _replayed(self, history: History) -> Evolution:
        """The evolution of the trials that have values, up to the last complete generation."""
        seen = self._observer.observe(history, self.population)
        ranks = np.argsort(seen.order())

        def generation(start: int, size: int) -> tuple[Config, ...]:
            ranked = seen.trials[start : start + size][np.argsort(ranks[start : start + size])]
            return tuple(history.trials[i].config for i in ranked)

        evolution = self._evolution
        if evolution is None or any(told != generation(start, len(told)) for start, told in evolution.told):
            evolution = Evolution(self.space, self.coordinates, self.seed, self.population)
        while len(seen) - evolution.begun >= evolution.size:
            evolution.tell(generation(evolution.begun, evolution.size))
        self._evolution = evolution
        return evolution


class Evolution:
    """One run of the method after another: what was told, and what can be drawn now."""

    def __init__(self, space: Space, coordinates: Coordinates, seed: int, population: int) -> None:
        self.space = space
        self.coordinates = coordinates
        self.seed = seed
        self.size = population
        self.told: list[tuple[int, tuple[Config, ...]]] = []  # generations, best first, and the trials before them
        self.begun = 0  # trials told
        self.runs = 0
        self._restart()

    def draw(self, index: int) -> Config:
        """The configuration number `index` of those drawn from the present distribution."""
        while index >= len(self._drawn):
            solution = self._cma.ask()
            self._drawn.append((self.space.decode(self.coordinates.point(solution)), solution))
        return self._drawn[index][0]

    def tell(self, generation: tuple[Config, ...]) -> None:
        """Move the distribution by `size` configurations, best first."""
        self.draw(self.size - 1)
        drawn = {config.key(): solution for config, solution in reversed(self._drawn)}
        own = [solution for _, solution in self._drawn[: self.size]]
        solutions = [
            drawn[config.key()] if config.key() in drawn else self.coordinates.nearest(self.space, config, own, place)
            for place, config in enumerate(generation)
        ]
        self._cma.tell([(solution, float(rank)) for rank, solution in enumerate(solutions)])
        self.told.append((self.begun, generation))
        self.begun += self.size
        if self._is_exhausted(solutions):
            self.runs += 1
            self.size *= 2
            self._restart()
        else:
            self._reseed()

    def _restart(self) -> None:
        rng = np.random.default_rng(derive_seed(self.seed, "cma-es", self.runs))
        around = rng.random(len(self.coordinates.numbers)) if self.runs else np.full(len(self.coordinates.numbers), 0.5)
        self._cma = self.coordinates.distribution(around, self.size)
        self._reseed()

    def _reseed(self) -> None:
        """Each generation has numbers of its own, however many were drawn from the one before."""
        self._cma.reseed_rng(derive_seed(self.seed, "cma-es", self.runs, self._cma.generation) % 2**32)
        self._drawn: list[tuple[Config, CatCMAwM.Solution]] = []

    def _is_exhausted(self, solutions: Sequence[CatCMAwM.Solution]) -> bool:
        if self.coordinates.continuous:
            spread = np.ptp(np.array([solution.x for solution in solutions]), axis=0)
            if float(spread.max()) < RESOLUTION:
                return True
        return bool(self.coordinates.numbers) and self._cma.should_stop()


@dataclass(frozen=True)
class Coordinates:
    """How the hyperparameters of a space are given to the package: all numbers in their unit interval.

    A number on a grid of at most 64 values is whole; one on a finer grid is continuous, and rounded.
    """

    names: tuple[str, ...]  # of the whole space
    continuous: Mapping[str, Hyperparameter]
    whole: Mapping[str, Hyperparameter]
    categories: Mapping[str, Choice]

    @classmethod
    def of(cls, space: Space) -> Coordinates:
        numbers = {name: part for name, part in space.tuned.items() if not isinstance(part, Choice)}
        whole = {name: part for name, part in numbers.items() if levels(part)}
        continuous = {name: part for name, part in numbers.items() if name not in whole}
        choices = {n: part for n, part in space.tuned.items() if isinstance(part, Choice) and len(part.values) > 1}
        return cls(tuple(space.tuned), continuous, whole, choices)

    @property
    def numbers(self) -> dict[str, Hyperparameter]:
        """In the order of the package's vectors."""
        return {**self.continuous, **self.whole}

    def __len__(self) -> int:
        return len(self.continuous) + len(self.whole) + len(self.categories)

    def distribution(self, around: Array, population: int) -> CatCMAwM:
        """The distribution at these quantiles of the priors, shape (numbers,), as wide as the priors are."""
        parts = list(self.numbers.values())
        widths = np.array([(part.quantile(0.84) - part.quantile(0.16)) / 2 for part in parts])
        probabilities = np.zeros(
            (len(self.categories), max((len(c.values) for c in self.categories.values()), default=0))
        )
        for row, choice in zip(probabilities, self.categories.values(), strict=True):
            row[: len(choice.values)] = choice.probabilities
        return CatCMAwM(
            x_space=[[0.0, 1.0]] * len(self.continuous) or None,
            z_space=[levels(part) for part in self.whole.values()] or None,
            c_space=[len(choice.values) for choice in self.categories.values()] or None,
            population_size=population,
            mean=np.array([part.quantile(float(q)) for part, q in zip(parts, around, strict=True)]) if parts else None,
            sigma=1.0,
            cov=np.diag(widths**2) if parts else None,
            cat_param=probabilities if self.categories else None,
        )

    def point(self, solution: CatCMAwM.Solution) -> Array:
        """The point of the unit cube, shape (len(names),)."""
        found: dict[str, float] = {}
        for kind, values in ((self.continuous, solution.x), (self.whole, solution.z)):
            if values is not None:
                found |= dict(zip(kind, values.tolist(), strict=True))
        if solution.c is not None:
            for (name, choice), row in zip(self.categories.items(), solution.c, strict=True):
                found[name] = (int(np.argmax(row)) + 0.5) / len(choice.values)
        return np.array([found.get(name, 0.5) for name in self.names])

    def nearest(self, space: Space, config: Config, own: Sequence[CatCMAwM.Solution], place: int) -> CatCMAwM.Solution:
        """A configuration that was not drawn, brought to where the generation `own` was drawn.

        Hansen 2011, *Injecting external solutions into CMA-ES*, shortens such steps too. What is not active in it is
        taken from the solution at `place`.
        """
        solution = own[place]
        unit = dict(zip(self.names, space.encode(config).tolist(), strict=True))
        raw = x = z = c = None
        if self.numbers:
            all_raw = np.array([other._v_raw for other in own])
            raw = np.array([unit[name] for name in self.numbers])
            raw = np.clip(np.where(np.isnan(raw), all_raw[place], raw), all_raw.min(axis=0), all_raw.max(axis=0))
            x = raw[: len(self.continuous)] if self.continuous else None
            z = raw[len(self.continuous) :] if self.whole else None
        if solution.c is not None:
            c = solution.c.copy()
            for row, (name, choice) in zip(c, self.categories.items(), strict=True):
                if name in config:
                    row[:] = np.arange(len(row)) == min(int(unit[name] * len(choice.values)), len(choice.values) - 1)
        return CatCMAwM.Solution(x, z, c, raw)


def levels(part: Hyperparameter) -> list[float]:
    """The unit values of a number on a coarse grid; none for any other."""
    if isinstance(part, Choice) or (isinstance(part, Float) and part.step is None):
        return []
    step = part.step or 1
    count = round((part.decode(1.0) - part.low) / step) + 1
    found = sorted(
        {part.encode(part.decode(part.encode(part.low + i * step))) for i in range(min(count, MOST_LEVELS + 1))}
    )
    return found if len(found) >= 2 and count <= MOST_LEVELS else []
