"""Points that cover the space evenly, however many of them are trained.

Sobol 1967, *On the distribution of points in a cube*; Owen 1998, *Scrambling Sobol' and Niederreiter-Xing
points*; for hyperparameters: Bousquet et al. 2017, *Critical hyper-parameters: no random, no cry*.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.search.grid import Values, all_values, combinations, tried, untried
from rheostat.space import Space
from rheostat.types import Config, History

BLOCK = 1024  # points generated at once
REPEATS = 100  # points without a new configuration before what is left of a finite space counts as rare


class Sobol:
    """Trial n gets point n of a Sobol sequence scrambled by `seed`, bent by the priors.

    In a finite space many points fall on one configuration. There the sequence is that of the distinct
    configurations, in the order in which the points first meet them (after 100 points in a row without a new
    one the rest follow in lexicographic order), and a trial gets the first of them that is not in the
    history. When all were tried `suggest` returns fewer than asked for.

    The points and configurations of the sequence are kept; they depend on the space and `seed` alone.
    """

    adaptive = False

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.seed = seed
        self._values = all_values(space)
        self._blocks: list[NDArray[np.float64]] = []
        self._met: dict[str, Config] = {}

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        first = len(history.trials)
        if self._values is None:
            return [self._config(index) for index in range(first, first + n)]
        known = tried(history)
        missing = len(known) + n - len(self._met)  # with so many more, at least n of those met are untried
        for config in islice(self._meetings, max(missing, 0)):
            self._met[config.key()] = config
        return untried(self._met, known, n)

    def _config(self, index: int) -> Config:
        while index >= len(self._blocks) * BLOCK:
            self._blocks.append(self._engine.random(BLOCK))
        point = self._blocks[index // BLOCK][index % BLOCK]
        return self.space.decode(point[: len(self.space)], prior=True)

    @cached_property
    def _engine(self) -> Any:
        from scipy.stats import qmc

        return qmc.Sobol(max(len(self.space), 1), scramble=True, rng=np.random.default_rng(self.seed))

    @cached_property
    def _meetings(self) -> Iterator[Config]:
        """Each configuration of a finite space that is not in `_met` yet, in its order."""
        assert self._values is not None, "only a finite space runs out of configurations"
        return self._meet(self._values)

    def _meet(self, values: Values) -> Iterator[Config]:
        repeats = 0
        for index in count():
            config = self._config(index)
            repeats = repeats + 1 if config.key() in self._met else 0
            if repeats == REPEATS:
                break
            if repeats == 0:
                yield config
        yield from (config for config in combinations(self.space, values) if config.key() not in self._met)
