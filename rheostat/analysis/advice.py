"""What to try next, in plain words. One rule, one function; each speaks only with evidence beyond chance.

Values are minimised in here, as everywhere inside. The rules are those of the Deep Learning Tuning Playbook
(Godbole et al. 2023: ranges, infeasible points, length of training), with tests against false alarms added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat import hyperparameters
from rheostat.analysis.ranking import share_beaten
from rheostat.errors import SpaceError
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, Status, TrialRecord

MOST = 5  # pieces of advice
SIGNIFICANCE = 0.05
FEW_TRIALS = 10
BAD = (Status.INFEASIBLE, Status.FAILED)
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


@dataclass(frozen=True)
class Advice:
    """One thing to try or to know.

    `suggestion` holds what to change: a part of the space, {"lr": {"low": 1e-5, "high": 1.0}} or
    {"optimizer": {"values": ["adamw"]}}, or {"epochs": 40}.
    """

    kind: str  # infeasible, few trials, range edge, too short, wasted, tie
    text: str
    hyperparameter: str | None = None
    suggestion: Mapping[str, Any] | None = None


def advise(
    space: Space,
    trials: Sequence[TrialRecord],
    max_epochs: int | None,
    metric: str,
    sign: int,
    validation_size: int | None,
) -> list[Advice]:
    """At most five pieces of advice, the most important first.

    `sign` is 1 where the user minimises the metric and -1 where the user maximises it; the trials' values are
    minimised in either case. `validation_size` is the number of validation examples, where it is known.
    """
    best = sorted((t for t in trials if t.status not in BAD and t.best < math.inf), key=lambda t: (t.best, t.number))
    top = best[: max(3, math.ceil(len(best) / 10))]
    full = [t for t in top if t.status is Status.DONE or t.epochs >= (max_epochs or math.inf)]
    everything = [
        *_infeasible(space, trials),
        *_few_trials(trials),
        *_range_edges(space, trials, top),
        *_too_short(full, metric),
        *_wasted(full),
        *_ties(best, metric, sign, validation_size),
    ]
    return everything[:MOST]


# -- trials that gave nothing --------------------------------------------------------------------------------


def _infeasible(space: Space, trials: Sequence[TrialRecord]) -> list[Advice]:
    """More than half failed or diverged: the space is wrong, or the code is."""
    tried = [t for t in trials if t.epochs or t.status in BAD]  # a paused trial is feasible, too
    bad = [t for t in tried if t.status in BAD]
    if len(bad) < 3 or 2 * len(bad) <= len(tried):
        return []
    reason = Counter(t.reason for t in bad if t.reason).most_common(1)
    why = f", most often: {reason[0][0]}" if reason else ""
    text = f"{len(bad)} of {len(tried)} trials failed or diverged{why}."
    culprit = _separator(space, tried)
    if culprit is None:
        return [Advice("infeasible", f"{text} No single hyperparameter explains it: check the model and the data.")]
    name, words, change = culprit
    return [Advice("infeasible", f"{text} Nearly all of them have {words}: leave that out.", name, {name: change})]


def _separator(space: Space, tried: Sequence[TrialRecord]) -> tuple[str, str, dict[str, Any]] | None:
    """The hyperparameter that tells bad trials from good ones: its name, the bad values, the good part."""
    everywhere = {n: p for n, p in space.tuned.items() if all(n in t.config for t in tried)}
    found = []
    for name, part in everywhere.items():
        result = _split_choice(name, part, tried) if isinstance(part, Choice) else _split_range(name, part, tried)
        if result is not None and result[1] < SIGNIFICANCE / len(everywhere):
            found.append((result[0], name, *result[2:]))
    if not found:
        return None
    errors, name, words, change = min(found, key=lambda f: f[:2])
    return (name, words, change) if errors <= 0.1 * len(tried) else None


def _split_range(
    name: str, part: Float | Int, tried: Sequence[TrialRecord]
) -> tuple[int, float, str, dict[str, Any]] | None:
    """The threshold that misjudges the fewest trials: how many, the p-value, the bad side, the good range."""
    from scipy import stats

    values = np.array([float(t.config[name]) for t in tried])
    bad = np.array([t.status in BAD for t in tried])
    if bad.all() or np.ptp(values) == 0:
        return None
    p = float(stats.mannwhitneyu(values[bad], values[~bad], alternative="two-sided").pvalue)
    good_values = np.unique(values[~bad])
    above = [int((bad != (values > v)).sum()) for v in good_values]  # misjudged, were all above v bad
    below = [int((bad != (values < v)).sum()) for v in good_values]
    if min(above) <= min(below):
        edge = _rounded(part, float(good_values[int(np.argmin(above))]))
        return min(above), p, f"{name} above {edge:.4g}", {"low": part.low, "high": edge}
    edge = _rounded(part, float(good_values[len(below) - 1 - int(np.argmin(below[::-1]))]))
    return min(below), p, f"{name} below {edge:.4g}", {"low": edge, "high": part.high}


def _split_choice(
    name: str, part: Choice, tried: Sequence[TrialRecord]
) -> tuple[int, float, str, dict[str, Any]] | None:
    """The one value that misjudges the fewest trials; see `_split_range`."""
    from scipy import stats

    found = []
    for value in part.values:
        table = Counter((t.status in BAD, t.config[name] == value) for t in tried)
        misjudged = table[True, False] + table[False, True]
        counts = [[table[True, True], table[True, False]], [table[False, True], table[False, False]]]
        p = float(stats.fisher_exact(counts, alternative="greater").pvalue) * len(part.values)
        rest = [v for v in part.values if v != value]
        found.append((misjudged, p, f"{name}={value}", {"values": rest}))
    return min(found, key=lambda f: f[:2]) if len(part.values) > 1 else None


def _rounded(part: Float | Int, value: float) -> float | int:
    inside = min(max(float(f"{value:.2g}"), part.low), part.high)
    return int(value) if isinstance(part, Int) else inside


def _few_trials(trials: Sequence[TrialRecord]) -> list[Advice]:
    """Random points: n of them hit the best share q of a space with probability 1 - (1 - q)^n."""
    n = sum(t.epochs > 0 or t.status is Status.INFEASIBLE for t in trials if t.status is not Status.FAILED)
    if not trials or n >= FEW_TRIALS:
        return []
    chance = 1 - 0.95**n
    text = (
        f"Only {n} trial{'' if n == 1 else 's'} gave a result: the chance that one lies in the best 5% of the "
        f"space is {chance:.0%}; with 59 it would be 95%."
    )
    return [Advice("few trials", text)]


# -- ranges --------------------------------------------------------------------------------------------------


def _range_edges(space: Space, trials: Sequence[TrialRecord], top: Sequence[TrialRecord]) -> list[Advice]:
    """The best trials lie at the edge of a range, and the results get better towards it.

    The first alone says little: of ten hyperparameters without effect, some two have the best trial near an
    edge. So the outer quarter of the range must beat the rest (Mann-Whitney test, 5% divided by the number of
    ranges), and its outer half must rise towards the edge, lest a peak inside be taken for one outside. With
    random results fewer than 3 studies of 100 get a false alarm (tests/analysis/test_advice.py).
    """
    usable = [t for t in trials if t.status is Status.INFEASIBLE or (t.epochs and t.status is not Status.FAILED)]
    ranges = {n: p for n, p in space.tuned.items() if isinstance(p, Float | Int) and _known_as(n) != "seed"}
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
            widened = _widened(name, part, upper)
            if widened is not None and _near_edge(name, part, upper, top):
                p = _edge_p_value(unit if upper else 1 - unit, score)
                if p < level:
                    found.append((p, _edge_advice(name, part, upper, top[0], widened)))
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


def _edge_advice(name: str, part: Float | Int, upper: bool, best: TrialRecord, widened: tuple[float, float]) -> Advice:
    side, edge, new = ("upper", part.high, widened[1]) if upper else ("lower", part.low, widened[0])
    value = f" (the best trial has {best.config[name]:.4g})" if name in best.config else ""
    text = f"{name} sits at its {side} edge {edge:.4g}{value}: widen it, for example to {new:.4g}."
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


# -- length of training --------------------------------------------------------------------------------------


def _too_short(full: Sequence[TrialRecord], metric: str) -> list[Advice]:
    """The best trials were still improving when they ended.

    Best in the last quarter (Playbook), falling over the last half beyond chance, and by more than 2%. An
    annealed learning rate makes the end good by itself, so there the advice is to try once.
    """
    full = [t for t in full if t.epochs >= 4]
    late = [t for t in full if t.best_epoch > 0.75 * t.epochs]
    if len(full) < 3 or 2 * len(late) <= len(full) or _falling(full) < 1.645:  # one-sided 5% of a normal
        return []
    if median(_last_gain(t, metric) for t in late) < 0.02:
        return []
    epochs = max(t.epochs for t in late)
    text = f"{len(late)} of the {len(full)} best trials still improved in the last quarter of {epochs} epochs"
    if 2 * sum(_anneals(t.config) for t in late) > len(late):
        text += f", where the learning rate comes down: try the best one with {2 * epochs} epochs."
    else:
        text += f": train longer, for example {2 * epochs} epochs."
    return [Advice("too short", text, None, {"epochs": 2 * epochs})]


def _falling(trials: Sequence[TrialRecord]) -> float:
    """How many standard deviations the falls in the last halves of the curves outnumber the rises.

    Mann-Kendall's S, summed over independent series: Hirsch, Slack and Smith 1982, equations 1 to 4.
    """
    statistic = variance = 0.0
    for trial in trials:
        window = max(math.ceil(trial.epochs / 2), 3)
        values = np.array([v for v in trial.values[-window:] if math.isfinite(v)])
        n = len(values)
        statistic += float(np.sign(values[:, None] - values[None, :])[np.triu_indices(n, 1)].sum())
        variance += n * (n - 1) * (2 * n + 5) / 18
    return statistic / math.sqrt(variance) if variance else 0.0


def _last_gain(trial: TrialRecord, metric: str) -> float:
    """By what share the last quarter lowered the best value; an accuracy is taken as an error."""
    offset = 1.0 if "acc" in metric.lower() and -1 <= trial.best <= 0 else 0.0
    earlier = [v for v in trial.values[: math.floor(0.75 * trial.epochs)] if math.isfinite(v)]
    before = min(earlier, default=trial.best)
    return (before - trial.best) / (abs(before + offset) or 1.0)


def _anneals(config: Config) -> bool:
    names = ("schedule", *hyperparameters.get("schedule").aliases)
    return any(config.get(name, "constant") not in ("constant", "none", "plateau", None, False) for name in names)


def _wasted(full: Sequence[TrialRecord]) -> list[Advice]:
    """All the best trials were best in the first tenth of their epochs (Playbook)."""
    full = [t for t in full if t.epochs >= 10]
    if len(full) < 3 or any(t.best_epoch > 0.1 * t.epochs for t in full):
        return []
    latest, epochs = max(t.best_epoch for t in full), max(t.epochs for t in full)
    text = (
        f"The {len(full)} best trials were best by epoch {latest} of {epochs} and never after: "
        f"regularise more, or train for about {3 * latest} epochs and try more configurations."
    )
    return [Advice("wasted", text, None, {"epochs": 3 * latest})]


# -- noise ---------------------------------------------------------------------------------------------------


def _ties(best: Sequence[TrialRecord], metric: str, sign: int, validation_size: int | None) -> list[Advice]:
    """Trials that the validation set is too small to tell from the best one.

    For a share p of errors among n examples. The difference of two networks judged on the same examples has
    the variance (share of examples on which one alone errs) / n (McNemar 1947). Where they have half of their
    errors in common that is about p (1 - p) / n, half of what it is for independent ones.
    """
    is_rate = ("err" if sign > 0 else "acc") in metric.lower()
    if not best or not validation_size or not is_rate:
        return []
    rates = [t.best + (1.0 if sign < 0 else 0.0) for t in best]
    counts = [rate * validation_size for rate in rates]
    if rates[0] < 0 or rates[0] > 1 or any(abs(c - round(c)) > 0.01 for c in counts[:10]):
        return []  # not a share of the validation examples: an error of another kind, such as a squared one
    p = min(max(rates[0], 1 / validation_size), 0.5)  # no error at all does not mean no noise
    noise = 2 * math.sqrt(p * (1 - p) / validation_size)
    tied = [t for t, rate in zip(best, rates, strict=True) if rate - rates[0] <= noise][1:]
    if not tied:
        return []
    numbers = ", ".join(str(t.number) for t in tied[:5]) + (" ..." if len(tied) > 5 else "")
    are = "trial is" if len(tied) == 1 else "trials are"
    text = (
        f"{len(tied)} {are} tied with the best, trial {best[0].number}: they differ from it by less than the "
        f"noise of {validation_size} validation examples ({100 * noise:.1f} points, two standard errors). "
        f"Prefer the cheapest ({numbers})."
    )
    return [Advice("tie", text)]
