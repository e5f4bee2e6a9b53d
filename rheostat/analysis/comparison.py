"""Is one way of training better than another? A paired test that knows how the two were tuned.

An *arm* is one value of the hyperparameter that is compared, with others tuned for it. Its two best configurations, the
*finalists*, are trained again with fresh seeds, the same in every arm. What an arm reaches differs from what another
tuning with other seeds, judged on other examples, would have reached, by three kinds of noise:

seeds      the repeats of the finalists, paired over arms by their seeds
tuning     the configuration is the best of a few noisy trials, and so not the best there is. How far apart choices may
           lie is seen in the two finalists (`tuning_variance`)
examples   the held-out examples are a sample; repeats are judged on blocks of them, the same in every arm

The difference of two arms, divided by the root of the sum of these variances, is compared with Student's t, with the
degrees of freedom of the seeds. A paired t test over the seeds of the chosen configurations leaves the second out, and
then of two equal arms calls one better far oftener than it says (docs/compare.md has the table, which
benchmarks/comparison_level.py makes). Several arms beside one reference are corrected by Holm 1979, so that the
chance of any wrong verdict stays below the level.

Values are minimised in here, as everywhere inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Verdict(StrEnum):
    """How an arm stands beside the reference."""

    REFERENCE = "reference"
    BETTER = "better"
    WORSE = "worse"
    TIED = "tied"
    DIVERGED = "diverged"  # fewer than two repeats have a value to compare


@dataclass(frozen=True)
class Repeats:
    """One configuration trained with S seeds.

    `validation` (S,) is what configurations are chosen by, `judged` (S,) what arms are compared by, both NaN where
    training diverged. `blocks` (S, G) are the judged values on G parts of the held-out examples; G is 0 where they
    are not known.
    """

    validation: Array
    judged: Array
    blocks: Array

    @classmethod
    def of(cls, validation: Any, judged: Any = None, blocks: Any = None) -> Repeats:
        """From sequences; without `judged`, arms are compared by the validation values."""
        validation = np.asarray(validation, float)
        judged = validation if judged is None else np.asarray(judged, float)
        blocks = np.empty((len(validation), 0)) if blocks is None else np.asarray(blocks, float)
        return cls(validation, judged, blocks)

    @property
    def diverged(self) -> int:
        return int(np.isnan(self.judged).sum())


Finalists = Sequence[Repeats]  # of one arm


@dataclass(frozen=True)
class Estimate:
    """A mean, and the ends of its confidence interval; NaN where there is too little to know them."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """An arm less the reference, with its confidence interval.

    `seeds`, `tuning` and `examples` are the standard errors from the three kinds of noise. `p` is the probability of
    a difference as large between equal arms, and `adjusted_p` that of one among all the arms of a comparison.
    """

    value: float
    low: float
    high: float
    seeds: float
    tuning: float
    examples: float
    p: float
    adjusted_p: float


@dataclass(frozen=True)
class Judgement:
    """What the repeats say of an arm: `order` are its finalists, the best first.

    The interval of `estimate` is of seeds and tuning: what doing all of it again on the same examples might give.
    """

    verdict: Verdict
    order: tuple[int, ...]
    estimate: Estimate
    difference: Difference | None = None


def judge(arms: Sequence[Finalists], reference: int, level: float = 0.05) -> list[Judgement]:
    """How each arm stands beside the reference.

    Repeats that diverged are left out of the means, but an arm in which more of them did than in the reference is
    not called better, and one in which fewer did is not called worse.

    >>> good, bad = Repeats.of([0.20, 0.21, 0.19]), Repeats.of([0.30, 0.31, 0.30])
    >>> [str(judgement.verdict) for judgement in judge([[good], [bad]], reference=0)]
    ['reference', 'worse']
    """
    orders = [ranked(arm) for arm in arms]
    ordered = [[arm[i] for i in order] for arm, order in zip(arms, orders, strict=True)]
    estimates = [estimate(arm, level) for arm in ordered]
    base = ordered[reference]
    found = {i: d for i, arm in enumerate(ordered) if i != reference and (d := difference(arm, base, level))}
    adjusted = holm([d.p for d in found.values()])
    found = {i: replace(d, adjusted_p=p) for (i, d), p in zip(found.items(), adjusted, strict=True)}
    verdicts = {i: _verdict(d, ordered[i][0].diverged - base[0].diverged, level) for i, d in found.items()}
    if math.isfinite(estimates[reference].value):
        verdicts[reference] = Verdict.REFERENCE
    return [
        Judgement(verdicts.get(i, Verdict.DIVERGED), orders[i], estimates[i], found.get(i)) for i in range(len(arms))
    ]


def ranked(arm: Finalists) -> tuple[int, ...]:
    """The finalists, the best first: by how few repeats diverged, then by their mean validation value."""
    return tuple(sorted(range(len(arm)), key=lambda i: (arm[i].diverged, _mean(arm[i].validation), i)))


def estimate(arm: Finalists, level: float = 0.05) -> Estimate:
    """The mean of the first finalist's repeats, with an interval of the noise of seeds and tuning."""
    if not arm:
        return Estimate(math.nan, math.nan, math.nan)
    judged = arm[0].judged[~np.isnan(arm[0].judged)]
    mean = _mean(judged) if len(judged) else math.nan
    if len(judged) < 2:
        return Estimate(mean, math.nan, math.nan)
    variances, freedom = _pooled([repeats.judged for repeats in arm[:2]])
    half = _quantile(level, freedom) * math.sqrt(variances / len(judged) + tuning_variance(arm))
    return Estimate(mean, mean - half, mean + half)


def difference(arm: Finalists, reference: Finalists, level: float = 0.05) -> Difference | None:
    """The difference of two arms whose finalists stand in order; None with fewer than two pairs of repeats."""
    if not arm or not reference:
        return None
    pairs = [one.judged - other.judged for one, other in zip(arm[:2], reference[:2], strict=False)]
    first = pairs[0][~np.isnan(pairs[0])]
    if len(first) < 2:
        return None
    variance, freedom = _pooled(pairs)
    step = resolution([r.judged for r in (*arm[:2], *reference[:2])])
    seeds = max(variance, step**2 / 6) / len(first)
    tuning = tuning_variance(arm) + tuning_variance(reference)
    examples = examples_variance(arm[0].blocks - reference[0].blocks) if _same_blocks(arm[0], reference[0]) else 0.0
    value, error = _mean(first), math.sqrt(seeds + tuning + examples)
    p = 1.0 if value == 0 else _p_value(value, error, freedom)
    half = _quantile(level, freedom) * error
    noise = (math.sqrt(seeds), math.sqrt(tuning), math.sqrt(examples))
    return Difference(value, value - half, value + half, *noise, p, p)


def tuning_variance(arm: Finalists) -> float:
    """The variance of what tuning chooses, from its two finalists; 0 for an arm that was not tuned.

    Tuned again, an arm would take the second instead of the first with some probability p, which the repeats tell, so
    the variance is at least p (1 - p) times the square of their difference. It is taken three times, since there
    are more than two to choose from; and never less than a quarter of the square, since the first is not at the optimum
    either, but about half way from it to the second. Both numbers are the least that hold the level in simulations.
    """
    if len(arm) < 2:
        return 0.0
    first, second = arm[:2]
    both = ~(np.isnan(first.judged) | np.isnan(second.judged))
    if not both.any():
        return 0.0
    gap = _mean(first.judged[both]) - _mean(second.judged[both])
    p = _chance_of_other(first.validation[both], second.validation[both])
    return max(3 * p * (1 - p), 0.25) * gap**2


def examples_variance(blocks: Array) -> float:
    """The variance of a mean because the held-out examples are a sample, from paired differences (S, G).

    The component of the blocks in a two-way analysis of variance (seeds and blocks at random, without replication),
    over G; 0 where the estimate is negative.
    """
    blocks = blocks[~np.isnan(blocks).any(1)]
    seeds, parts = blocks.shape
    if seeds < 2 or parts < 2:
        return 0.0
    by_part, by_seed = blocks.mean(0), blocks.mean(1)
    rest = blocks - by_part - by_seed[:, None] + blocks.mean()
    noise = float((rest**2).sum()) / ((seeds - 1) * (parts - 1))
    component = seeds * float(by_part.var(ddof=1)) - noise
    return float(max(component, 0.0) / (seeds * parts))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests, raised so that any below a level is right but with that probability (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[i] = highest
    return adjusted


def _verdict(found: Difference, more_diverged: int, level: float) -> Verdict:
    if found.adjusted_p > level or found.value * more_diverged < 0:
        return Verdict.TIED
    return Verdict.BETTER if found.value < 0 else Verdict.WORSE


def _pooled(samples: Sequence[Array]) -> tuple[float, int]:
    """The variance within samples (S,) without their NaN, and its degrees of freedom."""
    finite = [sample[~np.isnan(sample)] for sample in samples]
    freedom = sum(max(len(sample) - 1, 0) for sample in finite)
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in finite if len(sample))
    return squares / freedom, freedom


def resolution(samples: Sequence[Array]) -> float:
    """The least step between values: 1 / N where they are shares of N examples, about 0 for real numbers.

    Two values are known to half a step, so their difference has at least the variance of two uniform errors
    (Sheppard's correction): few repeats may agree to the last example by chance.
    """
    values = np.unique(np.concatenate(samples))  # sorted
    steps = np.diff(values[~np.isnan(values)])
    steps = steps[steps > 1e-9 * np.nanmax(np.abs(values))] if len(steps) else steps
    return float(steps.min()) if len(steps) else 0.0


def _same_blocks(one: Repeats, other: Repeats) -> bool:
    return one.blocks.shape == other.blocks.shape


def _chance_of_other(first: Array, second: Array) -> float:
    """The probability that one trial of the second looks better than one of the first, for normal noise."""
    from scipy import special

    gap = abs(_mean(second) - _mean(first))
    variance = _pooled([first, second])[0] if len(first) > 1 else 0.0
    if gap == 0 or variance == 0:
        return 0.5 if gap == 0 else 0.0
    return float(special.ndtr(-gap / math.sqrt(2 * variance)))


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.sum()) / len(known) if len(known) else math.inf


def _p_value(value: float, error: float, freedom: int) -> float:
    from scipy import special

    return 2 * float(special.stdtr(freedom, -abs(value) / error)) if error > 0 else 0.0


def _quantile(level: float, freedom: int) -> float:
    from scipy import special

    return float(special.stdtrit(freedom, 1 - level / 2))
