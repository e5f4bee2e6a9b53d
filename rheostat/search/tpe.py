"""The tree-structured Parzen estimator: search where good trials are dense and bad ones are not.

Bergstra et al. 2011, *Algorithms for hyper-parameter optimization*, NeurIPS, section 4; Watanabe 2023,
*Tree-structured Parzen estimator: understanding its algorithm components and their roles*, arXiv:2304.11127.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SettingError
from rheostat.search.observations import Observations, Observer
from rheostat.search.parzen import Axis, Categories, Mixture, axis_of, encode
from rheostat.search.random import each_once
from rheostat.search.sobol import Sobol
from rheostat.search.stages import Chooser, Ratio, Stage, stages_of
from rheostat.space import Space
from rheostat.types import Config, History

MOST_GOOD = 25  # trials
MOST_BAD = 1000  # that get a kernel; where there are more, some of them, spread evenly over their order
WIDTH = 0.2  # of the kernel where there is one, in ranges
LEAST_WIDTH = 0.01
ENOUGH = 1  # trials at an epoch for it to be the one to compare at: few good ones leave more to the prior
PRIOR_WEIGHT = 1.0  # in trials

Array = NDArray[np.float64]


class TPE:
    """Draws `candidates` from the density of good trials, and suggests the one least like bad trials.

    The best `gamma` of all trials are good, 25 at most, and count by how much they are better than the best of the
    others (Watanabe 2023, section 3.2: weighting by improvement). Infeasible and failed trials are bad, and so are
    trials in flight until a value of theirs is known ("constant liar"), those suggested in the same call among them.
    Where trials are stopped early only those trained furthest can be good. The first `startup` are those of `Sobol`.

    The densities are joint ones of all hyperparameters. Those under a condition come after the others, by densities of
    the trials in which they were active, split anew and given what was chosen for the others. The priors of the space
    are a part of each density and weigh as much as one trial.

    No configuration of the history is suggested again while others are found; where a finite space is used up,
    `suggest` returns fewer than asked for. Raises SettingError for a `gamma` not between 0 and 1, or others below 1.
    """

    adaptive = True

    def __init__(self, space: Space, seed: int, startup: int = 10, candidates: int = 24, gamma: float = 0.1) -> None:
        if not 0 < gamma < 1:
            raise SettingError(f"gamma={gamma!r} is not allowed: give the share of good trials, between 0 and 1.")
        for name, value in (("startup", startup), ("candidates", candidates)):
            if value < 1:
                raise SettingError(f"{name}={value!r} is not allowed: give at least 1.")
        self.space = space
        self.startup = startup
        self.candidates = candidates
        self.gamma = gamma
        self._sobol = Sobol(space, seed)
        self._observer = Observer(space)
        self._axes = [axis_of(part) for part in space.values()]
        self._stages = stages_of(space)

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        seen = self._observer.observe(history, ENOUGH)
        if len(seen) < self.startup:
            return self._sobol.suggest(history, n, rng)
        chooser = Chooser(self.space, self._ratios(seen), self.candidates)

        def choose(found: list[Config], known: set[str]) -> Config | None:
            if found:
                chooser.add_bad(encode(self._axes, self.space.encode(found[-1])[None])[0])
            return chooser.choose(known, rng)

        return each_once(self.space, history, n, rng, choose)

    def _ratios(self, seen: Observations) -> list[Ratio]:
        order = seen.order()
        ranked, pending = encode(self._axes, seen.points[order]), encode(self._axes, seen.pending)
        values = np.where(seen.epochs == seen.epoch, seen.values, math.inf)[order]
        return [self._ratio(stage, ranked, values, pending) for stage in self._stages]

    def _ratio(self, stage: Stage, ranked: Array, values: Array, pending: Array) -> Ratio:
        """`ranked`: (n, len(space)), codes from the best trial to the worst. `values`: (n,), infinity: bad anyway."""
        axes = [self._axes[d] for d in stage.columns]
        active = ~np.isnan(ranked[:, stage.own[0]])
        rows, values = ranked[active][:, stage.columns], values[active]
        many = min(math.ceil(self.gamma * len(rows)), MOST_GOOD, int(np.isfinite(values).sum()))
        good = mixture(axes, rows[:many], improvements(values, many))
        waiting = pending[~np.isnan(pending[:, stage.own[0]])][:, stage.columns]
        bad = np.vstack([rows[many:], waiting])
        if len(bad) > MOST_BAD:
            bad = bad[np.linspace(0, len(bad) - 1, MOST_BAD).astype(np.intp)]
        return Ratio(stage, good, good, mixture(axes, bad, np.ones(len(bad))))


def improvements(values: Array, many: int) -> Array:
    """The weights of the best `many` of the values, in order: by how much each is better than the next (many,).

    Of mean 1, so that together they weigh as much against the prior as `many` trials.
    """
    following = values[many] if many < len(values) and math.isfinite(values[many]) else values[many - 1 : many]
    gains = following - values[:many]
    total = gains.sum()
    return gains * (many / total) if total > 0 else np.ones(many)


def mixture(axes: Sequence[Axis], centers: Array, weights: Array) -> Mixture:
    """Scott's rule for the widths of numbers; for categories that of Watanabe 2023, section 3.3.3 (add-one)."""
    k, d = centers.shape
    width = max(WIDTH * max(k, 1) ** (-1 / (d + 4)), LEAST_WIDTH, 1 / (k + 2))
    widths = [(a.size - 1) / (k + 1 + a.size) if isinstance(a, Categories) else width for a in axes]
    return Mixture(axes, centers, weights, PRIOR_WEIGHT, np.array(widths))
