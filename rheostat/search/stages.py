"""Configurations by the ratio of two densities, stage by stage where some hyperparameters depend on others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rheostat.search.parzen import Mixture
from rheostat.space import Space
from rheostat.types import Config, Scalar

ATTEMPTS = 100  # candidates, after which none is new

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """Hyperparameters that are active in the same configurations, by their places in the space.

    `given`: those of earlier stages that are active wherever these are.
    """

    own: tuple[int, ...]
    given: tuple[int, ...]

    @property
    def columns(self) -> list[int]:
        return [*self.given, *self.own]


def stages_of(space: Space) -> list[Stage]:
    """Every hyperparameter in one stage, parents before children."""
    Condition = tuple[tuple[str, str], ...]
    condition: dict[str, Condition] = {}
    own: dict[Condition, list[int]] = {(): []}
    above: dict[Condition, set[Condition]] = {(): set()}  # the conditions that hold wherever another does
    for place, (name, part) in enumerate(space.tuned.items()):
        parents = [parent for parent in part.when if parent in space.tuned]
        key = tuple(sorted((parent, repr(allowed)) for parent, allowed in part.when.items()))
        condition[name] = key
        own.setdefault(key, []).append(place)
        if key:
            above[key] = {()}.union(*({condition[p]} | above[condition[p]] for p in parents))
    return [
        Stage(tuple(own[key]), tuple(sorted(place for one in above[key] for place in own[one])))
        for key in sorted(own, key=lambda key: len(above[key]))
        if own[key]
    ]


@dataclass(frozen=True)
class Ratio:
    """Over the columns of a stage: candidates are drawn from `source`, and ranked by `good` over `bad`."""

    stage: Stage
    source: Mixture
    good: Mixture
    bad: Mixture


class Chooser:
    """Finds configurations that are good in proportion, each stage given what was chosen in those before."""

    def __init__(self, space: Space, ratios: Sequence[Ratio], candidates: int) -> None:
        self.space = space
        self.ratios = ratios
        self.candidates = candidates
        self._names = list(space.tuned)

    def choose(self, known: set[str], rng: np.random.Generator) -> Config | None:
        """A configuration that is not among the `known` keys; None where all candidates are."""
        codes = np.full(len(self.space), math.nan)
        found = islice(self._complete(0, {}, codes, rng), ATTEMPTS)
        return next((config for config in found if config.key() not in known), None)

    def _complete(
        self, step: int, values: dict[str, Scalar], codes: Array, rng: np.random.Generator
    ) -> Iterator[Config]:
        """Configurations that begin with these values, from the best."""
        if step == len(self.ratios):
            yield Config({**values, **self.space.fixed})
            return
        ratio = self.ratios[step]
        own, given = list(ratio.stage.own), list(ratio.stage.given)
        if not self.space.is_active(self._names[own[0]], {**self.space.fixed, **values}):
            yield from self._complete(step + 1, values, codes, rng)
            return
        drawn = ratio.source.draw(self.candidates, rng, codes[given])
        order = np.argsort(ratio.bad.density(drawn) / ratio.good.density(drawn), kind="stable")
        axes = ratio.good.axes[len(given) :]
        units = np.column_stack([axis.decode(drawn[:, len(given) + j]) for j, axis in enumerate(axes)])
        for i in order:
            extended = codes.copy()
            extended[own] = drawn[i, len(given) :]
            more = {
                self._names[d]: self.space[self._names[d]].decode(u)
                for d, u in zip(own, units[i].tolist(), strict=True)
            }
            yield from self._complete(step + 1, {**values, **more}, extended, rng)

    def add_bad(self, codes: Array) -> None:
        """Count a point among the bad ones of every stage that is active in it."""
        for ratio in self.ratios:
            row = codes[ratio.stage.columns]
            if not np.isnan(row).any():
                ratio.bad.add(row, 1.0)
