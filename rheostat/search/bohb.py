"""The model of BOHB: kernel densities of the trials at the largest epoch that enough of them reached.

Falkner, Klein and Hutter 2018, *BOHB: robust and efficient hyperparameter optimization at scale*, ICML, section 4.1 and
algorithm 2. With `Hyperband` as the schedule it is BOHB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat.search.observations import Observations, Observer
from rheostat.search.parzen import Axis, Categories, Mixture, axis_of, encode
from rheostat.search.random import Random, each_once
from rheostat.search.stages import Chooser, Ratio, Stage, stages_of
from rheostat.space import Space
from rheostat.types import Config, History

RANDOM = 1 / 3  # the share of suggestions that are drawn from the priors (rho)
GOOD = 0.15  # the share of good trials (q)
CANDIDATES = 64  # N_s
WIDENING = 3.0  # of the kernels that candidates are drawn from (b_w)
LEAST_WIDTH = 1e-3
TRACE = 1e-12  # of the prior in each density, so that no ratio is 0 / 0

Array = NDArray[np.float64]


class BOHB:
    """A third of the configurations from the priors, the others by the ratio of two kernel densities.

    The model is fitted to the trials at the largest epoch that `len(space) + 2` of them reached, infeasible and failed
    ones at the end; before there are so many every configuration is drawn from the priors. The best 15 % are good, at
    least `len(space) + 1`. Hyperparameters under a condition are modelled on the trials in which they were active,
    given the others; the paper's program fills in random values instead. Trials in flight do not count.

    No configuration of the history is suggested again while others are found; where a finite space is used up,
    `suggest` returns fewer than asked for.
    """

    adaptive = True

    def __init__(self, space: Space) -> None:
        self.space = space
        self.least = len(space) + 1  # N_min
        self._random = Random(space)
        self._observer = Observer(space)
        self._axes = [axis_of(part) for part in space.values()]
        self._stages = stages_of(space)

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        seen = self._observer.observe(history, enough=self.least + 1)
        enough = int(np.sum(seen.epochs == seen.epoch)) > self.least and np.isfinite(seen.values).any()
        if not enough or not len(self.space):
            return self._random.suggest(history, n, rng)
        chooser = Chooser(self.space, self._ratios(seen), CANDIDATES)

        def choose(_: list[Config], known: set[str]) -> Config | None:
            return chooser.choose(known, rng) if rng.random() >= RANDOM else None

        return each_once(self.space, history, n, rng, choose)

    def _ratios(self, seen: Observations) -> list[Ratio]:
        order = seen.order()
        ranked = encode(self._axes, seen.points[order][seen.epochs[order] == seen.epoch])
        return [self._ratio(stage, ranked) for stage in self._stages]

    def _ratio(self, stage: Stage, ranked: Array) -> Ratio:
        """Equation 3. `ranked`: (n, len(space)), codes from the best trial to the worst."""
        axes = [self._axes[d] for d in stage.columns]
        rows = ranked[~np.isnan(ranked[:, stage.own[0]])][:, stage.columns]
        good = rows[: max(self.least, round(GOOD * len(rows)))]
        bad = rows[-max(self.least, len(rows) - len(good)) :] if len(rows) else rows
        widths = rule_of_thumb(axes, good)
        wide = np.array(
            [
                width if isinstance(axis, Categories) else WIDENING * width
                for axis, width in zip(axes, widths, strict=True)
            ]
        )
        return Ratio(
            stage,
            source=_density(axes, good, wide),
            good=_density(axes, good, widths),
            bad=_density(axes, bad, rule_of_thumb(axes, bad)),
        )


def rule_of_thumb(axes: Sequence[Axis], rows: Array) -> Array:
    """Scott's rule for each axis, as BOHB takes it: 1.06 * deviation * n ** (-1 / (4 + d)); categories by their codes.

    The deviation of a category's code says how mixed the values are; its width is at most that of equal shares.
    """
    n, d = rows.shape
    widths = []
    for axis, column in zip(axes, rows.T, strict=True):
        values = column if isinstance(axis, Categories) else axis.decode(column)
        width = 1.06 * (float(values.std()) if n else 0.0) * max(n, 1) ** (-1 / (4 + d))
        most = (axis.size - 1) / axis.size if isinstance(axis, Categories) else 1.0
        widths.append(min(max(width, LEAST_WIDTH), most))
    return np.array(widths)


def _density(axes: Sequence[Axis], rows: Array, widths: Array) -> Mixture:
    return Mixture(axes, rows, np.ones(len(rows)), TRACE, widths)
