"""Independent draws from the priors: the yardstick of every other method. And how every searcher repeats nothing.

Bergstra and Bengio 2012, *Random search for hyper-parameter optimization*, JMLR 13.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rheostat.search.grid import all_values, combinations, tried
from rheostat.space import Space
from rheostat.types import Config, History

ATTEMPTS = 100  # draws before what is left of a space counts as rare

Choose = Callable[[list[Config], set[str]], Config | None]


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
        self._is_finite = all_values(space) is not None

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        if not self._is_finite:
            return self.space.sample(rng, n)
        return each_once(self.space, history, n, rng, lambda found, known: None)


def each_once(space: Space, history: History, n: int, rng: np.random.Generator, choose: Choose) -> list[Config]:
    """Up to `n` configurations that are not in the history; fewer where a finite space is used up.

    `choose` is given those found so far, and the keys of all that are known. Where it finds none, or one that is known,
    `untried_draw` does.
    """
    known = tried(history)
    found: list[Config] = []
    while len(found) < n:
        config = choose(found, known)
        if config is None or config.key() in known:
            config = untried_draw(space, known, rng)
        if config is None:
            break
        known.add(config.key())
        found.append(config)
    return found


def untried_draw(space: Space, known: set[str], rng: np.random.Generator) -> Config | None:
    """A configuration that is not among the `known` keys, from the priors.

    In a finite space the first of those left after 100 draws of known ones, None if all are known; in another the last
    draw, known or not.
    """
    for _ in range(ATTEMPTS):
        config = space.sample(rng)[0]
        if config.key() not in known:
            return config
    values = all_values(space)
    if values is None:
        return config
    return next((config for config in combinations(space, values) if config.key() not in known), None)
