"""The default: which configurations to begin and which trials to thaw, by a model of their learning curves.

The idea of freezing and thawing trials is that of Swersky, Snoek and Adams 2014, *Freeze-thaw Bayesian optimization*,
arXiv:1406.3896. Who thaws by expected improvement alone starts badly, before the model knows the curves, and trusts it
too much where few trials are good (docs/search.md). Here the model chooses whom, but not how much: each stage of
training gets a fixed share of all epochs, as in Li et al. 2018, *Hyperband*, JMLR 18, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from rheostat.schedule.asha import rungs
from rheostat.schedule.curve_process import CurveProcess, Observed, log_time
from rheostat.schedule.curve_reader import WORST, CurveReader, Curves
from rheostat.schedule.fifo import check_limits
from rheostat.search.embedding import Embedding
from rheostat.search.gaussian_process import log_improvement
from rheostat.search.grid import tried
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Space
from rheostat.types import Assignment, Config, Continue, History, Start

FEWEST = 4  # trials with a value, below which there is no model
MOST_OBSERVED = 500  # points of curves
MOST_FITTED = 120  # of them, by which the hyperparameters are learnt
MOST_PAUSED = 40  # trials of each stage that are weighed
WIDE, CLOSE = 100, 60  # new configurations that are weighed: drawn from the space, and near good ones
ELITE = 8  # good ones
EXPLORE = 0.25  # of new configurations are the next of the Sobol sequence, whatever was measured
STEEP = 1.2  # each stage gets this times the share of the one before
APART = 0.3  # length scales that new configurations of one decision keep from each other
MARGIN = 0.05  # by which a trial is to become better than the best, to be worth thawing
TRUST = 3.0  # trials, after which the priors of the space count as much as the model, and then less and less

Array = NDArray[np.float64]
Places = NDArray[np.int64]


class FreezeThaw:
    """Trains many trials a little and some to the end; a process over learning curves says which.

    Training is divided into stages at the `rungs` of ASHA. Every stage gets `STEEP` times the epochs of the one before.
    A free place goes to the stage that has had least of its share. In the first stage that is a new trial, with the
    configuration of which the model hopes most, or by a chance of one in four with the next point of a Sobol sequence.
    In every other stage it is the paused trial of which the model hopes most. At most `trials` are started (None: no
    limit), after which all stages are given what they still have to get; so the study ends.

    To hope is to expect improvement on the best value so far, at the end of the trial.

    Values enter the model as the lowest so far, between the best (0) and a middling trial (1), and what is worse than
    1.5 counts as 1.5: how bad a bad trial is must not matter. One that diverged counts as that.

    Raises SettingError for less than one trial or epoch.
    """

    adaptive = True

    def __init__(self, space: Space, trials: int | None, max_epochs: int, seed: int = 0) -> None:
        check_limits(trials, max_epochs)
        self.space = space
        self.trials = trials
        self.max_epochs = max_epochs
        self.rungs = np.array(rungs(1, max_epochs, 3))
        self.embedding = Embedding(space)
        self._stages = np.diff(self.rungs, prepend=0)  # their epochs
        self._sobol = Sobol(space, seed)
        self._even = Sobol(_without_priors(space), seed) if any(part.prior for part in space.values()) else None
        self._reader = CurveReader(space)

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        if free <= 0:
            return []
        curves = self._reader.read(history)
        spent = self._spent(curves)
        shares = STEEP ** np.arange(len(self.rungs))
        left = free if self.trials is None else min(free, self.trials - len(history.trials))
        waiting = [Continue(int(i), int(self.rungs[0])) for i in np.flatnonzero(curves.paused & (curves.epochs == 0))]
        found: list[Assignment] = [*waiting[:free]]
        model = self._model(curves, rng)
        if model is None:
            found += self._first(history, min(left, free - len(found)), rng)
            if found:
                return found
        thaw = self._thawed(curves, model)
        # Nothing is weighed until one is asked for: most decisions only thaw.
        new = iter(()) if model is None else self._new(history, curves, model, left, rng)
        while len(found) < free:
            starts = model is not None and left > 0
            stage = self._stage(spent / shares, self._stages / shares, starts, thaw)
            if stage is None:
                break
            if stage > 0:
                found.append(Continue(thaw[stage].pop(0), int(self.rungs[stage])))
            elif (config := next(new, None)) is not None:
                found.append(Start(config, int(self.rungs[0])))
                left -= 1
            else:
                left = 0
            spent[stage] += self._stages[stage]
        return found

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        """Up to `n` new configurations, and nothing to be thawed: the method as a `Searcher`."""
        curves = self._reader.read(history)
        model = self._model(curves, rng)
        if model is None:
            return [start.config for start in self._first(history, n, rng)]
        return list(self._new(history, curves, model, n, rng))

    def _spent(self, curves: Curves) -> Array:
        """The epochs that each stage was given, those in training among them: (stages,)."""
        into = curves.until[:, None] - (self.rungs - self._stages)
        spent: Array = np.clip(into, 0, self._stages).sum(axis=0).astype(float)
        return spent

    def _stage(self, levels: Array, costs: Array, starts: bool, thaw: list[list[int]]) -> int | None:
        """The stage that will have had least of its share; None where there is nothing to do.

        When no more trials are started, the others get as much as the first has had, and no more.
        """
        for stage in np.argsort(levels + costs, kind="stable").tolist():
            if starts if stage == 0 else thaw[stage] and (starts or levels[stage] < levels[0]):
                return int(stage)
        return None

    def _first(self, history: History, n: int, rng: np.random.Generator) -> list[Start]:
        """The likeliest configuration, then evenly over the space: there is nothing to learn from."""
        if n <= 0:
            return []
        configs = self._explore(history, n, rng)
        if not history.trials:
            likely = self.space.likely()
            configs = [likely, *(config for config in configs[1:] if config != likely)]
        return [Start(config, int(self.rungs[0])) for config in configs]

    def _explore(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        """The next points of the sequence: half of them bent by the priors at first, then more and more seldom.

        Who explored only where a wrong prior points would not learn that it is wrong. Fewer than `n` where both kinds
        of points meet in a finite space; none only where it is used up.
        """
        bent = self._sobol.suggest(history, n, rng)
        if self._even is None:
            return bent
        even = self._even.suggest(history, n, rng)
        measured = sum(trial.epochs > 0 for trial in history.trials)
        follow = rng.random(len(bent)) < min(TRUST / (TRUST + measured), 0.5)
        chosen = [one if bends else other for one, other, bends in zip(bent, even, follow.tolist(), strict=True)]
        return list(dict.fromkeys(chosen))

    def _model(self, curves: Curves, rng: np.random.Generator) -> CurveProcess | None:
        """The model of what was observed; None where that is too little."""
        seen = np.flatnonzero(curves.known & (curves.bad | np.isfinite(curves.lowest)))
        if len(seen) < FEWEST or not np.isfinite(curves.lowest[seen]).any():
            return None
        low, unit = curves.scale()
        scaled = np.minimum((np.where(curves.bad[:, None], math.inf, curves.values) - low) / unit, WORST)
        trials, knots = self._observed(seen, curves, scaled)
        observed = Observed(
            self.embedding.features(curves.points[trials]),
            trials,
            # A trial that diverged has come to its end.
            log_time(np.where(curves.bad[trials], self.max_epochs, curves.knots[trials, knots]), self.max_epochs),
            scaled[trials, knots],
        )
        fitted = np.arange(len(trials))
        if len(trials) > MOST_FITTED:
            fitted = np.sort(rng.permutation(len(trials))[:MOST_FITTED])
        return CurveProcess(self.embedding.groups, observed, fitted)

    @staticmethod
    def _observed(seen: Places, curves: Curves, scaled: Array) -> tuple[Places, Places]:
        """Points of curves: all of every curve, or of the better ones, and the last of some others. (n,), (n,)."""
        order = seen[np.argsort(scaled[seen, 0], kind="stable")]
        held = (curves.knots[order] > 0) & ~curves.bad[order, None]
        held[:, 0] = True
        if held.sum() > MOST_OBSERVED:
            better = int(np.searchsorted(np.cumsum(held.sum(axis=1)), MOST_OBSERVED // 2))
            others = np.linspace(better, len(order) - 1, MOST_OBSERVED // 2).astype(np.int64)
            held[better:] = False
            held[others, 0] = True
        rows, knots = np.nonzero(held)
        return order[rows], knots

    def _thawed(self, curves: Curves, model: CurveProcess | None) -> list[list[int]]:
        """For each stage, the paused trials that could enter it, best first by their expected improvement.

        Without a model, where no more trials are started than are too few for one, by their lowest value.
        """
        stages = np.searchsorted(self.rungs, curves.epochs, side="right")
        able = curves.paused & curves.known & ~curves.bad & (curves.epochs > 0) & np.isfinite(curves.lowest)
        found: list[list[int]] = [[]]
        for stage in range(1, len(self.rungs)):
            trials = np.flatnonzero(able & (stages == stage))
            trials = trials[np.argsort(curves.lowest[trials], kind="stable")[:MOST_PAUSED]]
            if model is not None and len(trials):
                features = self.embedding.features(curves.points[trials])
                mean, deviation = model.predict(features, trials, np.ones(len(trials)))
                trials = trials[np.argsort(-_hope(-MARGIN, mean, deviation), kind="stable")]
            found.append(trials.tolist())
        return found

    def _new(
        self, history: History, curves: Curves, model: CurveProcess, n: int, rng: np.random.Generator
    ) -> Iterator[Config]:
        """Up to `n` new configurations, one after the other: the most hopeful, or by chance one that explores.

        Fewer where the space is used up.
        """
        known = tried(history)
        chance = (rng.random(n) < EXPLORE).tolist()
        # Those to be explored are asked for together: the sequence goes by the number of the trial.
        wide = iter(self._explore(history, sum(chance), rng))
        hopeful = self._hopeful(history, curves, model, n, rng)
        while chance:
            choices = chain(islice(wide, 1), hopeful) if chance.pop() else hopeful
            config = next((config for config in choices if config.key() not in known), None)
            if config is None:
                return
            known.add(config.key())
            yield config

    def _hopeful(
        self, history: History, curves: Curves, model: CurveProcess, n: int, rng: np.random.Generator
    ) -> Iterator[Config]:
        """Candidates from the best down, none close to one before it; then more of the sequence."""
        points = self.embedding.snapped(_candidates(self.embedding, curves, rng))
        features = self.embedding.features(points)
        mean, deviation = model.predict(features, np.full(len(features), -1), np.ones(len(features)))
        # Priors count by a power that fades: Hvarfner et al. 2022, pi-BO, ICLR, equation 6; with the square of the
        # trials after `TRUST` of them, so that a wrong prior costs little after ten full trainings.
        trust = TRUST / max(len(history.trials), 1)
        worth = _hope(0.0, mean, deviation) + trust * min(trust, 1.0) * _liking(self.space, points)
        for place in _apart(worth, model.kernel.scaled(features)):
            yield self.space.decode(np.nan_to_num(points[place], nan=0.5))
        yield from self._sobol.suggest(history, 2 * n, rng)  # of which at most a half are known by now


def _without_priors(space: Space) -> Space:
    return Space({name: replace(part, prior=None) for name, part in space.tuned.items()} | dict(space.fixed))


def _hope(best: float, mean: Array, deviation: Array) -> Array:
    """The logarithm of the expected improvement on the best: Jones et al. 1998, equation 15."""
    hope: Array = np.log(deviation) + log_improvement((best - mean) / deviation)[0]
    return hope


def _apart(worth: Array, scaled: Array) -> Iterator[int]:
    """Places from the most worth down, none close to one before it. `scaled`: (n, features), in length scales."""
    far = np.ones(len(worth), dtype=np.bool_)
    for place in np.argsort(-worth, kind="stable").tolist():
        if far[place]:
            far &= ((scaled - scaled[place]) ** 2).sum(axis=1) >= APART**2
            yield place


def _candidates(embedding: Embedding, curves: Curves, rng: np.random.Generator) -> Array:
    """Points from the priors, evenly from the space, and near those of the best trials: (WIDE + CLOSE, dimensions)."""
    dimensions = len(embedding.space)
    wide = np.vstack([embedding.drawn(WIDE // 2, rng), rng.random((WIDE // 2, dimensions))])
    able = np.flatnonzero(curves.known & ~curves.bad & np.isfinite(curves.lowest))
    if not len(able) or not dimensions:
        return wide
    many = max(2, min(ELITE, len(curves.epochs) // 4 + 1))
    good = able[np.argsort(curves.lowest[able], kind="stable")[:many]]
    start = np.nan_to_num(curves.points[good[rng.integers(len(good), size=CLOSE)]], nan=0.5)
    # Some hyperparameters are moved, at least one, all of a configuration by steps of one size.
    moved = rng.random((CLOSE, dimensions)) < max(1.5 / dimensions, 0.3)
    moved[np.arange(CLOSE), rng.integers(dimensions, size=CLOSE)] = True
    step = np.exp(rng.uniform(math.log(0.02), math.log(0.3), (CLOSE, 1))) * rng.standard_normal((CLOSE, dimensions))
    close = 1 - np.abs(1 - np.abs(start + step))  # reflected at the ends of the range
    drawn = rng.random((CLOSE, dimensions))
    categorical = np.array([isinstance(part, Choice) for part in embedding.space.values()])
    close = np.where(moved, np.where(categorical, drawn, np.clip(close, 0, 1)), start)
    return np.vstack([wide, close])


def _liking(space: Space, points: Array) -> Array:
    """The log of the prior density of each point, (n,); 0 in a space without priors."""
    liking = np.zeros(len(points))
    for place, part in enumerate(space.values()):
        if part.prior is not None:
            units = points[:, place]
            liking += [0.0 if math.isnan(unit) else math.log(max(part.density(unit), 1e-9)) for unit in units.tolist()]
    return liking
