"""What earlier studies taught, for a new one: configurations to try first, and where good values lie.

Values of different studies are never compared: each study has its own scale, on which 0 is its best and 1 a middling
trial. A Gaussian process of each study says what a configuration would have come to there, though it was never tried.
Functions drawn from these processes stand for what the new study may be. The configurations to try first are a greedy
portfolio over the draws: the one that is best on average, then the one that adds most, and so on: Wistuba, Schilling
and Schmidt-Thieme 2015, *Sequential model-free hyperparameter tuning*, ICDM, section IV; Feurer et al. 2022,
*Auto-sklearn 2.0*, JMLR 23, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SpaceError, StudyError
from rheostat.search.embedding import Embedding
from rheostat.search.gaussian_process import Posterior, fit
from rheostat.space import Choice, Hyperparameter, Prior, Space
from rheostat.types import Config, Scalar, Status, TrialRecord

FIRST = 5  # configurations to try first
FEWEST = 4  # trials with a value, without which a study teaches nothing
MOST = 150  # trials of a study that its process is given: the better half, and others evenly
CANDIDATES = 30  # of each study, its best trials
MOST_CANDIDATES = 240  # of all studies
DRAWS = 64  # functions from each study
JITTER = 1e-6  # of the variance, for the Cholesky factor
SHIFT = 0.25  # of the variance within a study is that between studies
WORST = 1.5  # what is worse counts as this
GOOD = 0.1  # of a study's trials, at least `FEWEST`, show where good values lie
SHY = 6.0  # studies that know nothing, which count beside those that know something
MOST_SURE = 0.8
HARDLY = 1.2  # times as sure as by chance; less is not worth saying
NEAR = 0.125  # of the range on either side, as in `Prior`; values so far outside a range count as its end

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Earlier:
    """A study that was made before, with values to be minimised."""

    name: str
    space: Space
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class Lessons:
    """The new study's space, with priors on what had none; and what to try first, the most useful first.

    `used`: names of studies. `left_out`: by name, why a study taught nothing. `learnt`: hyperparameters with a prior
    of now.
    """

    space: Space
    first: tuple[Config, ...]
    used: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    learnt: tuple[str, ...] = ()

    def __str__(self) -> str:
        studies = "1 earlier study" if len(self.used) == 1 else f"{len(self.used)} earlier studies"
        tried = "1 configuration is" if len(self.first) == 1 else f"{len(self.first)} configurations are"
        likely = ", ".join(_likely(name, self.space[name]) for name in self.learnt)
        nothing = [f"nothing from {name}: {why}" for name, why in self.left_out.items()]
        return f"from {studies}: " + "; ".join([*filter(None, [likely]), f"{tried} tried first", *nothing])


def _likely(name: str, part: Hyperparameter) -> str:
    if isinstance(part, Choice):
        return f"{name}={part.prior.value}"
    return f"{name} near {part.prior.value:.3g}"


@dataclass(frozen=True)
class _Read:
    """A study's trials in the new space, best first.

    `points`: (n, len(space)), in the unit cube, NaN where not active. `measured`: the same, NaN also for what the
    study did not tune. `scores`: (n,), 0 to WORST.
    """

    name: str
    configs: list[Config]
    points: Array
    measured: Array
    scores: Array


def learn(space: Space, studies: Sequence[Earlier], first: int = FIRST) -> Lessons:
    """What these studies say of a space. A function of its arguments.

    A hyperparameter is compared where both spaces tune one of its name and kind; one that a study did not have is
    given its likely value. Trials with a category that the space lacks are left out, and with a number far out of
    its range. Raises StudyError where no study is of use.
    """
    read: list[_Read] = []
    left_out: dict[str, str] = {}
    for study in studies:
        found = _read(space, study)
        if isinstance(found, str):
            left_out[study.name] = found
        else:
            read.append(found)
    if not read:
        reasons = [f"{name}: {why}" for name, why in left_out.items()] or ["none was given"]
        raise StudyError("Nothing can be learnt from the earlier studies:\n  " + "\n  ".join(reasons))
    good = [_good(one) for one in read]
    priors: dict[str, Prior] = {}
    for place, (name, part) in enumerate(space.tuned.items()):
        known = [points[:, place] for points in good if np.isfinite(points[:, place]).any()]
        if part.prior is None and (prior := _prior(part, known)) is not None:
            priors[name] = prior
    parts = {name: replace(part, prior=priors.get(name, part.prior)) for name, part in space.tuned.items()}
    return Lessons(
        Space({**parts, **space.fixed}),
        tuple(_portfolio(space, read, first)),
        tuple(one.name for one in read),
        left_out,
        tuple(priors),
    )


# -- reading -----------------------------------------------------------------------------------------------------


def _read(space: Space, study: Earlier) -> _Read | str:
    """Why not, where it cannot be used."""
    shared = [_shared(space, study.space, name) for name in space]
    if not any(shared):
        return "it tunes nothing that this space tunes"
    found: list[tuple[float, int, Config, Config]] = []
    for trial, score in zip(study.trials, scores(study.trials).tolist(), strict=True):
        config = None if math.isnan(score) else translated(space, study.space, trial.config)
        if config is not None:
            found.append((score, trial.number, config, trial.config))
    if len(found) < FEWEST or all(score >= WORST for score, *_ in found):
        return f"{len(found)} of its {len(study.trials)} trials are of use here, and {FEWEST} with a value are needed"
    found.sort(key=lambda one: one[:2])
    points = np.array([space.encode(config) for _, _, config, _ in found])
    own = np.array([[name in config for name in space] for *_, config in found]) & np.array(shared)
    return _Read(
        study.name,
        [config for _, _, config, _ in found],
        points,
        np.where(own, points, math.nan),
        np.array([score for score, *_ in found]),
    )


def scores(trials: Sequence[TrialRecord]) -> Array:
    """Of each trial: 0 for the best of the study, 1 for a middling one, at most WORST, as for one that diverged.

    NaN where nothing is known. Shape (n,).
    """
    lowest = np.array([min(filter(math.isfinite, trial.values), default=math.nan) for trial in trials])
    bad = np.array(
        [
            trial.status in (Status.INFEASIBLE, Status.FAILED)
            or (trial.epochs > 0 and not math.isfinite(trial.values[-1]))
            for trial in trials
        ],
        dtype=np.bool_,
    )
    lowest[[trial.status is Status.CANCELLED for trial in trials]] = math.nan
    good = np.unique(lowest[np.isfinite(lowest) & ~bad])
    if not len(good):
        return np.where(bad, WORST, math.nan)
    unit = max(float(np.median(good) - good[0]), 1e-9 * max(abs(float(good[0])), 1e-3))
    return np.where(bad, WORST, np.minimum((lowest - good[0]) / unit, WORST))


def _shared(space: Space, other: Space, name: str) -> bool:
    return name in space.tuned and name in other.tuned and type(space[name]) is type(other[name])


def translated(space: Space, other: Space, values: Config) -> Config | None:
    """A configuration of another space in this one; None where its like is not in here."""
    for name, fixed in space.fixed.items():
        if name in values and values[name] != fixed and not (_is_number(fixed) and _is_number(values[name])):
            return None
    chosen: dict[str, Scalar] = {}
    for name, part in space.tuned.items():
        if not space.is_active(name, {**space.fixed, **chosen}):
            continue
        if name in values and (name in other.fixed or _shared(space, other, name)):
            fitted = _fitted(part, values[name])
            if fitted is None:
                return None
            chosen[name] = fitted[0]
        else:
            chosen[name] = part.decode(0.5) if part.prior is None else part.prior.value
    return Config({**chosen, **space.fixed})


def _fitted(part: Hyperparameter, value: Scalar) -> tuple[Scalar] | None:
    """The value as this hyperparameter has it; None where it has none like it."""
    if isinstance(part, Choice):
        try:
            return (part.check("", value),)
        except SpaceError:
            return None
    if not _is_number(value) or (part.log and value <= 0):
        return None
    scale = math.log if part.log else float
    low, high, at = scale(part.low), scale(part.high), scale(value)
    if max(low - at, at - high) > NEAR * (high - low):
        return None
    return (part.decode(part.encode(value)),)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- priors ------------------------------------------------------------------------------------------------------


def _prior(part: Hyperparameter, good: Sequence[Array]) -> Prior | None:
    """Where good values of a hyperparameter lie. `good`: of each study that measured it, its good trials, (n,).

    The value is where most of them lie near, every study counting as one, and the more certain the more studies there
    are: as many as `SHY` that found values anywhere are added. None where that is hardly more than chance.
    """
    units = np.concatenate([*good, np.empty(0)])
    weights = np.concatenate([*(np.full(len(some), 1 / len(some)) for some in good), np.empty(0)])
    active = np.isfinite(units)
    units, weights = units[active], weights[active]
    if not len(units):
        return None
    if isinstance(part, Choice):
        codes = np.floor(units * len(part.values))
        near, chance = codes[:, None] == codes, 1 / len(part.values)
    else:
        near, chance = np.abs(units[:, None] - units) <= NEAR, 2 * NEAR
    mass = near @ weights
    best = int(np.argmax(mass))
    sure = min(float(mass[best] + SHY * chance) / (len(good) + SHY), MOST_SURE)
    if sure < HARDLY * chance:
        return None
    center = units[best] if isinstance(part, Choice) else np.average(units[near[best]], weights=weights[near[best]])
    return Prior(part.decode(float(center)), sure)


def _good(one: _Read) -> Array:
    """What the good trials of a study measured, those that are as good as the last of them included."""
    least = max(FEWEST, round(GOOD * len(one.scores)))
    found: Array = one.measured[one.scores <= one.scores[:least][-1]]
    return found


# -- what to try first -------------------------------------------------------------------------------------------


def _portfolio(space: Space, read: Sequence[_Read], many: int) -> list[Config]:
    most = min(CANDIDATES, max(MOST_CANDIDATES // len(read), 1))
    configs = list(dict.fromkeys(config for one in read for config in one.configs[:most]))
    embedding = Embedding(space)
    asked = embedding.features(np.array([space.encode(config) for config in configs]))
    drawn = [_drawn(embedding, one, asked, np.random.default_rng(i)) for i, one in enumerate(read)]
    return [configs[place] for place in greedy(np.vstack(drawn), many)]


def _drawn(embedding: Embedding, one: _Read, asked: Array, rng: np.random.Generator) -> Array:
    """Scores that configurations, (n, features), may have in a study like this one: (DRAWS, n)."""
    kept = np.arange(len(one.scores))
    if len(kept) > MOST:
        kept = np.array([*range(MOST // 2), *np.linspace(MOST // 2, len(kept) - 1, MOST // 2).astype(int)])
    features, found = embedding.features(one.points[kept]), one.scores[kept]
    middle, unit = float(found.mean()), float(found.std()) or 1.0
    targets = (found - middle) / unit
    kernel = fit(features, targets, embedding.groups)
    mean, covariance = Posterior.of(kernel, features, targets).joint(asked)
    covariance = covariance + SHIFT * kernel.between(asked, asked)[0]
    covariance[np.diag_indices_from(covariance)] += JITTER * kernel.signal
    normal = rng.standard_normal((DRAWS, len(asked)))
    drawn: Array = middle + unit * (mean[:, 0] + normal @ np.linalg.cholesky(covariance).T)
    return drawn


def greedy(scores: Array, many: int) -> list[int]:
    """Columns of (functions, n), the one first that lowers the mean of the lowest most, the first of equals."""
    lowest = np.full(len(scores), WORST)
    found: list[int] = []
    for _ in range(min(many, scores.shape[1])):
        means = np.minimum(lowest[:, None], scores).mean(axis=0)
        means[found] = math.inf
        found.append(int(np.argmin(means)))
        lowest = np.minimum(lowest, scores[:, found[-1]])
    return found
