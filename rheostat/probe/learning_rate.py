"""Which learning rates does a network bear? The range test: its answer is a prior, never the best learning rate.

The learning rate is raised exponentially from update to update (Smith 2017, arXiv 1506.01186, section 3.3; in this
form in fastai and Lightning, which stop at four times the lowest smoothed loss). So short a test shows what is
stable, not what is best in the end, which is usually 3 to 10 times lower.

The published moving average of 0.98 lags by 50 updates, here four decades, so it only decides when to stop. The
answers are read from a curve smoothed to both sides alike. On 28 pairs of a task and an optimiser (docs/probes.md),
the learning rate where it has come up again by a tenth of its fall was the largest at which training went well
(median of 0.0 decades off), and the best one was 0.7 decades below, with a standard deviation of 0.55.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import Infeasible, SettingError, SpaceError
from rheostat.probe.sandbox import Progress, endless, nobody, sandbox
from rheostat.probe.words import Rows, figure, plain
from rheostat.space import Float, Prior, Space
from rheostat.train.task import Task
from rheostat.types import Config, Scalar

EMA, STOP_AT = 0.98, 4.0  # of the moving average that ends a ramp, and how many times its lowest value
WIDTH = 0.2  # decades: standard deviation of the smoothing that answers are read from
SHARE = 0.1  # of its fall: where the loss has begun to fall, and to rise again
BELOW_STABLE = 5.0  # the best final learning rate is so many times below the largest stable one
DECADES_OFF = 0.55  # standard deviation of that
SIGNIFICANT = 4.0  # standard errors: the lowest of many places is low by chance alone
LEAST_FALL = 0.01  # of the loss at the start
NEAR = 0.5  # decades: an eighth of a range of four decades, which a prior speaks of before a space is known

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Ramp:
    """The losses of one ramp, an update each, and what they say.

    `smoothed` is 3 + 1 times the start at most. Without a fall beyond chance, the four learning rates are None.
    `open` says that the loss had not come up again at the end of the range.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    start: float  # loss at the smallest learning rates
    lowest: float  # smoothed loss
    noise: float  # standard deviation of the loss from batch to batch
    falls_from: float | None = None
    steepest: float | None = None
    largest_stable: float | None = None
    open: bool = False


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest over the seeds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        between = "" if self.low == self.high else f" ({figure(self.low)} to {figure(self.high)})"
        return f"{figure(self.median)}{between}"


@dataclass(frozen=True)
class Decay:
    """A range test with another weight decay: the lowest smoothed loss, and the largest stable learning rate."""

    weight_decay: float
    lowest: float
    largest_stable: float | None


@dataclass(frozen=True)
class RangeTest:
    """What a range test found; None where the loss did not fall in most of its ramps.

    `weight_decay` is the largest that the loss bears as well as a smaller one (Smith 2018, arXiv 1803.09820,
    section 4.4), where several were tried.
    """

    optimizer: str
    batch_size: Scalar
    low: float
    high: float
    ramps: tuple[Ramp, ...]
    falls_from: Spread | None
    steepest: Spread | None
    largest_stable: Spread | None
    decays: tuple[Decay, ...] = ()
    weight_decay: float | None = None

    @property
    def prior(self) -> Prior | None:
        """Where to look for the best learning rate: a fifth of the largest stable one. It is to be tuned.

        It is as sure as in a range of four decades; `apply` makes it as sure as in the range of a space.
        """
        if self.largest_stable is None:
            return None
        center = self.largest_stable.median / BELOW_STABLE
        return Prior(float(f"{center:.2g}"), _sure(center, center / 10**NEAR, center * 10**NEAR))

    def apply(self, space: Space) -> Space:
        """The space with this prior for `lr`, moved into its range; unchanged where the loss did not fall.

        Raises SpaceError where `lr` is not tuned there.
        """
        part = space.tuned.get("lr")
        if not isinstance(part, Float):
            raise SpaceError("This space does not tune lr, so it has no prior: add lr=Float(1e-5, 1e-1, log=True).")
        if self.largest_stable is None:
            return space
        center = self.largest_stable.median / BELOW_STABLE
        value = min(max(float(f"{center:.2g}"), part.low), part.high)
        low, high = (part.decode(min(max(part.encode(value) + side, 0.0), 1.0)) for side in (-0.125, 0.125))
        prior = Prior(value, _sure(center, low, high))
        return Space({**space.tuned, **space.fixed, "lr": replace(part, prior=prior)})

    @property
    def words(self) -> str:
        return "\n".join(_words(self))

    @property
    def table(self) -> Rows | None:
        """The weight decays that were tried."""
        if not self.decays:
            return None
        rows = [
            (
                figure(decay.weight_decay),
                figure(decay.lowest, 3),
                "none" if decay.largest_stable is None else figure(decay.largest_stable),
            )
            for decay in self.decays
        ]
        titles = ("weight decay", "lowest loss", "largest stable lr")
        return Rows(titles, tuple(rows), frozenset(titles))

    def curve(self, columns: int) -> list[float]:
        """The smoothed loss at `columns` learning rates from `low` to `high`, on a log scale: medians over the
        seeds, NaN where less than half of the ramps got so far."""
        places = np.geomspace(self.low, self.high, columns)
        curves = [np.interp(places, ramp.lrs, ramp.smoothed, right=math.nan) for ramp in self.ramps]
        curves = [np.nan_to_num(curve, nan=math.inf) for curve in curves]  # those that ended stand above all others
        return [value if math.isfinite(value) else math.nan for value in np.median(curves, axis=0).tolist()]

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values."""
        described = {**asdict(self), "prior": self.prior and asdict(self.prior), "words": self.words}
        return {name: plain(value) for name, value in described.items()}


def lr_range_test(
    task: Task,
    config: Mapping[str, Scalar],
    steps: int = 100,
    low: float = 1e-7,
    high: float = 10.0,
    seeds: int = 3,
    seed: int = 0,
    weight_decays: Sequence[float] = (),
    progress: Progress = nobody,
) -> RangeTest:
    """Raise the learning rate from `low` to `high` in `steps` updates, `seeds` times from other weights and batches.

    Everything else is as the configuration says: network, optimiser, batches, hooks. `weight_decays` are tried each
    in another test. Raises SettingError for a wrong argument, and TaskError as training does.
    """
    if not 0 < low < high < math.inf:
        raise SettingError(f"low={low!r}, high={high!r}: give learning rates with 0 < low < high.")
    if steps < 20 or seeds < 1:
        raise SettingError(f"steps={steps!r}, seeds={seeds!r}: give at least 20 steps and 1 seed.")
    values = {name: value for name, value in config.items() if name != "lr"}

    tests = 1 + len(weight_decays)

    def ramps(test: int, changed: Mapping[str, Scalar]) -> tuple[Ramp, ...]:
        found = []
        for n in range(seeds):
            found.append(_ramp(task, Config({**values, **changed}), steps, low, high, seed + n))
            progress((test + (n + 1) / seeds) / tests)
        return tuple(found)

    own = ramps(0, {})
    decays = [_decay(wd, ramps(n, {"weight_decay": float(wd)})) for n, wd in enumerate(weight_decays, 1)]
    return RangeTest(
        str(config.get("optimizer") or "adam"),
        config.get("batch_size", 32),
        low,
        high,
        own,
        _spread(own, lambda ramp: ramp.falls_from),
        _spread(own, lambda ramp: ramp.steepest),
        _spread(own, lambda ramp: ramp.largest_stable),
        tuple(decays),
        _allowed(decays, own),
    )


# -- one ramp ------------------------------------------------------------------------------------------------


def _ramp(task: Task, config: Config, steps: int, low: float, high: float, seed: int) -> Ramp:
    lrs: list[float] = []
    losses: list[float] = []
    average, best = 0.0, math.inf
    with sandbox(task, config, seed) as training:
        training.rate = lambda step: low * (high / low) ** (step / (steps - 1))
        training.plateau = None
        try:
            for batch in endless(training):
                training.set_rate()
                lrs.append(training.rate(training.run.step))
                loss = training.backward(batch)
                losses.append(float(loss))
                average = EMA * average + (1 - EMA) * losses[-1]
                smoothed = average / (1 - EMA ** len(losses))
                best = min(best, smoothed)
                if smoothed > best + (STOP_AT - 1) * abs(best) or len(losses) == steps:
                    break
                if not training.update(loss, batch[-1]):
                    break
        except Infeasible:  # as far as it goes
            pass
    return read_ramp(lrs, losses, steps)


def read_ramp(lrs: Sequence[float], losses: Sequence[float], steps: int) -> Ramp:
    """What the losses (n,) at these learning rates say of a ramp that was to have `steps` updates."""
    decades, raw = np.log10(lrs), np.array(losses)
    first = max(len(raw) // 10, min(len(raw), 10))
    start = float(raw[:first].mean())
    noise = float(raw[: 2 * first].std(ddof=1)) if len(raw) > 1 else 0.0
    ceiling = start + (STOP_AT - 1) * abs(start)
    weights = np.exp(-0.5 * ((decades[:, None] - decades) / WIDTH) ** 2)
    weights /= weights.sum(1, keepdims=True)
    curve = weights @ np.minimum(np.nan_to_num(raw, nan=ceiling, posinf=ceiling, neginf=ceiling), ceiling)
    bottom = int(curve.argmin())
    ramp = Ramp(tuple(lrs), tuple(losses), tuple(curve.tolist()), start, float(curve[bottom]), noise)
    fall = start - ramp.lowest
    error = noise * math.sqrt(1 / first + float((weights[bottom] ** 2).sum()))
    if not fall > max(SIGNIFICANT * error, LEAST_FALL * abs(start)):  # or the start is not finite
        return ramp
    falls = max((i + 1 for i in range(bottom) if curve[i] >= start - SHARE * fall), default=0)
    slope = np.gradient(curve, decades)
    risen = next((i for i in range(bottom, len(curve)) if curve[i] > ramp.lowest + SHARE * fall), None)
    return replace(
        ramp,
        falls_from=lrs[falls],
        steepest=lrs[falls + int(slope[falls : bottom + 1].argmin())],
        largest_stable=lrs[-1 if risen is None else risen],
        open=risen is None and len(lrs) == steps,
    )


# -- all of them ---------------------------------------------------------------------------------------------


def _spread(ramps: Sequence[Ramp], answer: Callable[[Ramp], float | None]) -> Spread | None:
    """None where most ramps have no answer."""
    found = [value for value in map(answer, ramps) if value is not None]
    if 2 * len(found) <= len(ramps):
        return None
    return Spread(10 ** median(map(math.log10, found)), min(found), max(found))


def _decay(weight_decay: float, ramps: Sequence[Ramp]) -> Decay:
    stable = _spread(ramps, lambda ramp: ramp.largest_stable)
    return Decay(weight_decay, median(ramp.lowest for ramp in ramps), None if stable is None else stable.median)


def _allowed(decays: Sequence[Decay], ramps: Sequence[Ramp]) -> float | None:
    """The largest whose loss comes as low as that of any, but for a tenth of its fall, at lrs not much smaller."""
    stable = [(d, d.largest_stable) for d in decays if d.largest_stable is not None]
    if not stable:
        return None
    lowest, largest = min(d.lowest for d, _ in stable), max(lr for _, lr in stable)
    close = SHARE * (median(ramp.start for ramp in ramps) - lowest)
    good = [d.weight_decay for d, lr in stable if d.lowest <= lowest + close and lr >= largest / math.sqrt(10)]
    return max(good, default=None)


def _sure(center: float, low: float, high: float) -> float:
    """How probable it is that the best learning rate lies from `low` to `high`."""
    best = NormalDist(math.log10(center), DECADES_OFF)
    inside = best.cdf(math.log10(high)) - (best.cdf(math.log10(low)) if low > 0 else 0.0)
    return min(max(round(inside, 2), 0.05), 0.9)


def _words(test: RangeTest) -> list[str]:
    if test.falls_from is None or test.steepest is None or test.largest_stable is None:
        ramp = test.ramps[0]
        return [
            f"The loss falls at no learning rate from {figure(test.low)} to {figure(test.high)}: it is "
            f"{figure(ramp.start, 3)} at the start and {figure(ramp.lowest, 3)} at its lowest, and varies by "
            f"{figure(ramp.noise)} from batch to batch.",
            "No learning rate will mend that. Look at the data and the initial weights: rheostat probe init.",
        ]
    at_least = any(ramp.open for ramp in test.ramps)
    best = figure(test.largest_stable.median / BELOW_STABLE)
    stable = f"is at least {test.largest_stable}: the test ended there" if at_least else f"is {test.largest_stable}"
    lines = [
        f"The loss falls from lr {test.falls_from}, fastest at {test.steepest}; the largest stable lr {stable}.",
        f"The best final lr is usually 3 to 10 times lower: {best} is a prior for it. Tune it all "
        f"the same, since {len(test.ramps[0].lrs)} updates do not show what is best in the end.",
        f"This holds for {test.optimizer} at batch size {test.batch_size}; test again for another.",
    ]
    if test.weight_decay is not None:
        lines.append(
            f"The largest weight decay that costs neither loss nor stable lr here is {figure(test.weight_decay)}."
        )
    return lines
