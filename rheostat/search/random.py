"""Independent draws from the priors: the yardstick of every other method.

Bergstra and Bengio 2012, *Random search for hyper-parameter optimization*, JMLR 13.
"""

from __future__ import annotations

import numpy as np

from rheostat.search.grid import all_values, combinations, tried
from rheostat.space import Space
from rheostat.types import Config, History

ATTEMPTS = 100  # draws before what is left of a finite space counts as rare


class Random:
    """Draws every configuration from the priors of the space, whatever was measured.

    In a finite space no configuration is tried twice: one that is in the history is drawn again, and after
    100 such draws in a row the first untried one in lexicographic order is taken. When all were tried
    `suggest` returns fewer than asked for: without new configurations there is nothing to learn at random.

    >>> from rheostat.space import Choice, Space
    >>> searcher = Random(Space(layers=Choice([1, 2, 3])))
    >>> sorted(config.layers for config in searcher.suggest(History(), 10, np.random.default_rng(0)))
    [1, 2, 3]
    """

    adaptive = False

    def __init__(self, space: Space) -> None:
        self.space = space
        self._values = all_values(space)

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        if self._values is None:
            return self.space.sample(rng, n)
        known = tried(history)
        configs: list[Config] = []
        while len(configs) < n and (config := self._draw(known, rng)) is not None:
            known.add(config.key())
            configs.append(config)
        return configs

    def _draw(self, known: set[str], rng: np.random.Generator) -> Config | None:
        for _ in range(ATTEMPTS):
            config = self.space.sample(rng)[0]
            if config.key() not in known:
                return config
        assert self._values is not None, "only a finite space draws again"
        return next((c for c in combinations(self.space, self._values) if c.key() not in known), None)
