"""Ranges that end too soon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat import hyperparameters
from rheostat.analysis.ranking import share_beaten
from rheostat.analysis.rules.base import FEW_TRIALS, SIGNIFICANCE, Advice, Evidence
from rheostat.errors import SpaceError
from rheostat.space import Float, Hyperparameter, Int
from rheostat.types import TrialRecord

DECADES, LOWEST = 100, 0.1  # a range from 1 to 100 or more, and the part of it that is hardly sampled
# How far a range may be widened where nature or sense sets a limit; no range is widened past zero.
LIMITS = {
    "momentum": 0.999,
    "beta1": 0.999,
    "beta2": 0.9999,
    "rho": 0.9999,
    "ema": 0.9999,
    "decay_rate": 1.0,
    "dropout": 0.9,
    "label_smoothing": 0.5,
    "warmup": 0.5,
    "cooldown": 1.0,
    "final_lr_fraction": 1.0,
    "teacher_forcing": 1.0,
    "validation_fraction": 0.5,
    "train_fraction": 1.0,
}


def log_scale(seen: Evidence) -> list[Advice]:
    """A linear range of two decades or more, of which only the lowest part matters.

    On a linear scale nine in ten trials lie in the highest decade. Where the best trial and most of the top lie in the
    lowest tenth, and those in it beat the rest (Mann-Whitney, 5 % shared by such ranges), a logarithmic scale would
    spread trials over what makes a difference.
    """
    from scipy import stats

    ranges = {name: part for name, part in seen.space.tuned.items() if _wants_log(part)}
    if not seen.top or len(seen.usable) < FEW_TRIALS:
        return []
    scores = dict(zip((t.number for t in seen.usable), share_beaten(seen.usable), strict=True))
    advice = []
    for name, part in ranges.items():
        assert isinstance(part, Float | Int)

        def low(trial: TrialRecord, name: str = name, part: Float | Int = part) -> bool:
            return name in trial.config and (trial.config[name] - part.low) <= LOWEST * (part.high - part.low)

        active = [t for t in seen.usable if name in t.config]
        inside = np.array([low(t) for t in active], dtype=np.bool_)
        score = np.array([scores[t.number] for t in active])
        if inside.all() or not inside.any() or not low(seen.top[0]) or 2 * sum(map(low, seen.top)) <= len(seen.top):
            continue
        p = float(stats.mannwhitneyu(score[inside], score[~inside], alternative="greater").pvalue)
        if p < SIGNIFICANCE / len(ranges):
            text = (
                f"{name} runs evenly from {part.low:.4g} to {part.high:.4g}, but the best results lie in its lowest "
                f"tenth (the best trial has {seen.top[0].config[name]:.4g}): search it on a log scale."
            )
            advice.append(Advice("log scale", text, name, {name: {"low": part.low, "high": part.high, "log": True}}))
    return advice


def _wants_log(part: Hyperparameter) -> bool:
    return isinstance(part, Float | Int) and not part.log and 0 < DECADES * part.low <= part.high


def range_edges(seen: Evidence) -> list[Advice]:
    """The best trials lie at the edge of a range, and the results get better towards it.

    The first alone says little: of ten hyperparameters without effect, some two have the best trial near an edge. So
    the outer quarter of the range must beat the rest (Mann-Whitney test, 5% divided by the number of ranges), and its
    outer half must rise towards the edge, lest a peak inside be taken for one outside. Where the best trials lie
    elsewhere, for other reasons perhaps, half that level and a trend that still rises at the edge will do. With random
    results fewer than 4 studies of 100 get a false alarm (tests/analysis/test_advice.py).
    """
    usable, top = seen.usable, seen.top
    ranges = {n: p for n, p in seen.space.tuned.items() if isinstance(p, Float | Int) and _known_as(n) != "seed"}
    if not top or len(usable) < FEW_TRIALS:
        return []
    scores = dict(zip((t.number for t in usable), share_beaten(usable), strict=True))
    level = SIGNIFICANCE / max(len(ranges), 1)
    found = []
    for name, part in ranges.items():
        active = [t for t in usable if name in t.config and part.low <= t.config[name] <= part.high]
        unit = np.array([part.encode(t.config[name]) for t in active])
        score = np.array([scores[t.number] for t in active])
        for upper in (False, True):
            if not upper and _wants_log(part):
                continue  # of such a range the lower end is hardly sampled: see `log_scale`
            widened = _widened(name, part, upper)
            position = unit if upper else 1 - unit
            if widened is None or (p := _edge_p_value(position, score)) >= level:
                continue
            near = _near_edge(name, part, upper, top)
            if near or (p < level / 2 and _still_rising(position, _others(seen, name, active), score)):
                found.append((p, _edge_advice(name, part, upper, near, top[0], widened)))
    return [advice for _, advice in sorted(found, key=lambda f: f[0])]


def _near_edge(name: str, part: Float | Int, upper: bool, top: Sequence[TrialRecord]) -> bool:
    """Whether the best trial, or most of the top ones, lie within a tenth of the range from the edge."""
    edge = part.decode(float(upper))  # the last value; whole numbers have a stretch of the range each

    def near(trial: TrialRecord) -> bool:
        value = trial.config.get(name)
        if value is None:
            return False
        unit = part.encode(value)
        return bool(value == edge or (unit if upper else 1 - unit) >= 0.9)

    return near(top[0]) or 2 * sum(map(near, top)) > len(top)


def _still_rising(position: NDArray[np.float64], others: NDArray[np.float64], score: NDArray[np.float64]) -> bool:
    """Whether a parabola through the scores still rises at the edge, with the others (n, d) held where there is room.

    A trial that is the best for other reasons may lie anywhere; the trend tells what its position hides. Beyond chance
    (5 %) over the whole range, and at least not falling over the outer half, since a cliff bends the whole parabola.
    """
    outer = position >= 0.5
    return (
        _slope_at_edge(position, others, score) < SIGNIFICANCE
        and _slope_at_edge(position[outer], others[outer], score[outer]) < 0.5
    )


def _slope_at_edge(position: NDArray[np.float64], others: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """How easily chance gives a parabola that rises so steeply at 1: from 0 to 1, below a half where it rises."""
    from scipy import special

    x = np.column_stack([np.ones(len(position)), position, position**2])
    if len(x) >= 3 * (x.shape[1] + others.shape[1]):
        x = np.column_stack([x, others])
    freedom = len(x) - x.shape[1]
    if freedom < 1:
        return 1.0
    inverse = np.linalg.pinv(x.T @ x)
    coefficients = inverse @ x.T @ score
    noise = float(np.sum((score - x @ coefficients) ** 2)) / freedom
    gradient = np.zeros(x.shape[1])
    gradient[1:3] = 1.0, 2.0
    error = math.sqrt(max(noise * float(gradient @ inverse @ gradient), 1e-24))
    return float(special.stdtr(freedom, -float(gradient @ coefficients) / error))


def _others(seen: Evidence, name: str, trials: Sequence[TrialRecord]) -> NDArray[np.float64]:
    """The other numbers that all these trials have, in units of their ranges: (n, d)."""
    parts = [(n, p) for n, p in seen.space.tuned.items() if n != name and isinstance(p, Float | Int)]
    everywhere = [(n, p) for n, p in parts if all(n in t.config and p.low <= t.config[n] for t in trials)]
    columns = [[p.encode(t.config[n]) for t in trials] for n, p in everywhere]
    return np.array(columns, dtype=np.float64).reshape(len(columns), len(trials)).T


def _edge_p_value(position: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """How easily chance makes the outer quarter beat the rest; 1 where the outer half does not rise."""
    from scipy import stats

    outer = position >= 0.75
    half = position >= 0.5
    half = half if len(np.unique(position[half])) > 1 else np.ones_like(half)
    if outer.all() or not outer.any() or np.ptp(position[half]) == 0 or np.ptp(score[half]) == 0:
        return 1.0
    if stats.spearmanr(position[half], score[half]).statistic < 0.2:
        return 1.0
    return float(stats.mannwhitneyu(score[outer], score[~outer], alternative="greater").pvalue)


def _edge_advice(
    name: str, part: Float | Int, upper: bool, near: bool, best: TrialRecord, widened: tuple[float, float]
) -> Advice:
    side, edge, new = ("upper", part.high, widened[1]) if upper else ("lower", part.low, widened[0])
    value = f" (the best trial has {best.config[name]:.4g})" if name in best.config else ""
    text = (
        f"{name} sits at its {side} edge {edge:.4g}{value}: widen it, for example to {new:.4g}."
        if near
        else f"Results still get better towards the {side} edge of {name}, {edge:.4g}{value}: "
        f"widen it, for example to {new:.4g}."
    )
    return Advice("range edge", text, name, {name: {"low": widened[0], "high": widened[1]}})


def _widened(name: str, part: Float | Int, upper: bool) -> tuple[float, float] | None:
    """A wider range: by a decade on a log scale, else twice as wide; whole numbers on a log scale double.

    None where a limit leaves no room.
    """
    factor = 2 if isinstance(part, Int) else 10
    step = part.step or 1
    width = math.ceil((part.high - part.low) / step) * step if part.step else part.high - part.low
    low, high = part.low, part.high
    if upper:
        limit = LIMITS.get(_known_as(name), math.inf)
        limit = limit if high <= limit else math.inf  # above it, the name means another quantity: warmup in steps
        high = min(_plain(high * factor if part.log else high + width), limit)
    else:
        least = -math.inf if low < 0 else 1 if isinstance(part, Int) and low >= 1 else 0
        low = max(_plain(low / factor if part.log else low - width), least)
    if isinstance(part, Int):
        low, high = math.ceil(low), math.floor(high)
    return None if (low, high) == (part.low, part.high) else (low, high)


def _plain(value: float) -> float:
    """Without the dust of floating-point arithmetic."""
    return float(f"{value:.10g}")


def _known_as(name: str) -> str:
    """The canonical name, where there is one."""
    ending = next((known for known in LIMITS if name.endswith(f"_{known}")), name)  # attention_dropout
    try:
        return hyperparameters.get(ending).name
    except SpaceError:
        return name
