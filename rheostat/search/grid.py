"""Every combination of a few values each; and what a finite space holds.

Bergstra and Bengio 2012, *Random search for hyper-parameter optimization*, JMLR 13, section 3: a grid spends
its trials on repeated values of the hyperparameters that matter. It is for spaces of few, discrete values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from rheostat.errors import SettingError
from rheostat.space import Choice, Float, Hyperparameter, Space
from rheostat.types import Config, History, Scalar

LARGEST_GRID = 100_000  # configurations; far above what anyone trains, far below what fills the memory

Values = Mapping[str, Sequence[Scalar]]


class Grid:
    """All combinations of every value of each `Choice` and at most `points` values of each `Int` and `Float`.

    An `Int`, or a `Float` with a step, that has no more than `points` values gives them all; others give
    `points` values from `low` to `high`, evenly spaced on their scale (those that round to the same value
    count once). Combinations that differ only in a hyperparameter switched off by its condition are one.

    The order is shuffled by `seed`, and always the same: a grid that is cut short is then a fair sample of
    the whole, not a corner of it. Configurations that are in the history already, a user's own included, are
    left out. `suggest` returns fewer than asked for where the grid is used up.

    Raises SettingError for fewer than 2 points, or a grid of more than 100,000 configurations.

    >>> from rheostat.space import Float, Space
    >>> sorted(config.lr for config in Grid(Space(lr=Float(1e-5, 1e-1, log=True)), points=5))
    [1e-05, 0.0001, 0.001, 0.01, 0.1]
    """

    adaptive = False

    def __init__(self, space: Space, points: int = 5, seed: int = 0) -> None:
        if points < 2:
            raise SettingError(f"points={points} is not allowed: give at least 2, or fix a value in the space.")
        self.space = space
        self.seed = seed
        self.values = {name: _spaced(part, points) for name, part in space.tuned.items()}
        self.size = count(space, self.values)
        if self.size > LARGEST_GRID:
            raise SettingError(
                f"This grid has {self.size:,} configurations, more than {LARGEST_GRID:,}: give fewer points, "
                "search fewer hyperparameters, or use Sobol, which covers a large space evenly."
            )

    def __iter__(self) -> Iterator[Config]:
        """Every configuration, in the order of the trials."""
        return iter(self._order.values())

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        return untried(self._order, tried(history), n)

    @cached_property
    def _order(self) -> dict[str, Config]:
        configs = list(combinations(self.space, self.values))
        order = np.random.default_rng(self.seed).permutation(len(configs))
        return {configs[i].key(): configs[i] for i in order}


def all_values(space: Space) -> Values | None:
    """Every value of each hyperparameter of a finite space; None for a space that is not.

    A hyperparameter of more than 100,000 values counts as continuous.
    """
    if all(_steps(part) < LARGEST_GRID for part in space.tuned.values()):
        return {name: _every(part) for name, part in space.tuned.items()}
    return None


def combinations(space: Space, values: Values) -> Iterator[Config]:
    """Each configuration of these values once, in lexicographic order, with the conditions obeyed."""
    names = list(space.tuned)

    def extend(depth: int, chosen: dict[str, Scalar]) -> Iterator[Config]:
        if depth == len(names):
            yield Config({**chosen, **space.fixed})
        elif not space.is_active(names[depth], {**space.fixed, **chosen}):
            yield from extend(depth + 1, chosen)
        else:
            for value in values[names[depth]]:
                yield from extend(depth + 1, {**chosen, names[depth]: value})

    return extend(0, {})


def count(space: Space, values: Values) -> int:
    """How many `combinations` there are; goes through the values of parents only."""
    names = list(space.tuned)
    parents = {parent for part in space.tuned.values() for parent in part.when}

    def below(depth: int, chosen: dict[str, Scalar]) -> int:
        if depth == len(names):
            return 1
        name = names[depth]
        if not space.is_active(name, {**space.fixed, **chosen}):
            return below(depth + 1, chosen)
        if name not in parents:
            return len(values[name]) * below(depth + 1, chosen)
        return sum(below(depth + 1, {**chosen, name: value}) for value in values[name])

    return below(0, {})


def tried(history: History) -> set[str]:
    """The configurations of a history, as `Config.key` writes them."""
    return {trial.config.key() for trial in history.trials}


def untried(configs: Mapping[str, Config], tried: set[str], n: int) -> list[Config]:
    """The first `n` of these configurations, named by their keys, that were not tried."""
    found: list[Config] = []
    for key, config in configs.items():
        if len(found) == n:
            break
        if key not in tried:
            found.append(config)
    return found


def _spaced(part: Hyperparameter, points: int) -> Sequence[Scalar]:
    if isinstance(part, Choice) or _steps(part) < points:
        return _every(part)
    # an Int's scale runs half a step beyond its values on either side; the grid goes from value to value
    first, last = part.encode(part.decode(0.0)), part.encode(part.decode(1.0))
    return _distinct(part.decode(unit) for unit in np.linspace(first, last, points).tolist())


def _every(part: Hyperparameter) -> Sequence[Scalar]:
    if isinstance(part, Choice):
        return tuple(part.values)
    step = part.step or 1
    return _distinct(part.decode(part.encode(part.low + i * step)) for i in range(int(_steps(part)) + 1))


def _steps(part: Hyperparameter) -> float:
    """How many steps lead from the first value to the last; infinitely many where it is continuous."""
    if isinstance(part, Choice):
        return len(part.values) - 1
    if isinstance(part, Float) and part.step is None:
        return math.inf
    return round((part.decode(1.0) - part.low) / (part.step or 1))


def _distinct(values: Iterable[Scalar]) -> Sequence[Scalar]:
    return tuple(dict.fromkeys(values))
