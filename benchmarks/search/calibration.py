"""Asks whether what is said of the ends of learning curves is as uncertain as it says.

From each table, a study is made: configurations trained as successive halving would leave them, and others of which
only the first share of the curve is known. Quantiles of the lowest value of those at their end are predicted, by the
model of the default method with `benchmarks.search.forecast` (forecast), by the model alone (process), and by the last
value, a power law for each curve, and deep power laws. Values are as the default method sees them: 0 is the lowest of
the study, 1 a middling trial's, and what is worse than 1.5 counts as 1.5. No prediction lies above the lowest value
until now. Trials that diverge later are not asked for. Tables at even positions of a folder were used to choose;
reported are those at odd ones, unless --half says otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.forecast import LEAST, forecast
from benchmarks.search.tables import Table, read_tables
from rheostat.schedule.asha import rungs
from rheostat.schedule.curve_process import CurveProcess, log_time
from rheostat.schedule.curve_reader import WORST
from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.types import History, Status, TrialRecord

TRIALS, ASKED = 60, 10
FEWEST = 10  # values of a curve whose end is asked for
SHARES = (0.1, 0.2, 0.5)
HALVES = {"odd": (1,), "even": (0,), "all": (0, 1)}  # the positions of tables in their folders, by their last bit
LEVELS = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
WINDOW = 0.01  # a likelihood is the probability of the truth within this, by its width; so atoms have one too
RARE = 1e-6  # the least probability that is counted
TIE = 1e-9

Array = NDArray[np.float64]
Places = NDArray[np.int64]


class Distribution(Protocol):
    def below(self, values: Array) -> Array: ...

    def quantiles(self, levels: Array) -> Array: ...


@dataclass(frozen=True)
class Normal:
    """Normal distributions, with what lies above `ceiling` put there: (m,) each."""

    mean: Array
    deviation: Array
    ceiling: Array

    def below(self, values: Array) -> Array:
        from scipy.special import ndtr

        return np.where(values >= self.ceiling, 1.0, ndtr((values - self.mean) / self.deviation))

    def quantiles(self, levels: Array) -> Array:
        from scipy.special import ndtri

        found = self.mean[:, None] + self.deviation[:, None] * ndtri(levels)
        return np.minimum(found, self.ceiling[:, None])


@dataclass(frozen=True)
class Case:
    """A study and what is asked of it. `curves`: lowest values until each epoch, of each trial, scaled as the model's.

    `asked`: (m,), numbers of trials. `ends`: (m,), epochs. `truth`: (m,), falls of less than LEAST counting as none.
    """

    curves: tuple[Array, ...]
    features: Array  # (trials, f)
    process: CurveProcess
    asked: Places
    ends: Places
    truth: Array
    share: float
    max_epochs: int
    seed: int

    @property
    def current(self) -> Array:
        return np.array([self.curves[trial][-1] for trial in self.asked])

    def falls(self) -> Array:
        """How far each curve of the history with three values or more fell after its first share: (n,)."""
        known = [curve for trial, curve in enumerate(self.curves) if len(curve) >= 3 and trial not in self.asked]
        return np.array([curve[_first(self.share, len(curve)) - 1] - curve[-1] for curve in known])


def make_case(table: Table, seed: int, share: float) -> Case | None:
    """None where no curve is long enough to be asked for, or the default method would have no model yet."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table.curves)).tolist()
    able = [row for row in order if len(table.curves[row]) >= FEWEST and math.isfinite(table.curves[row][-1])]
    asked = able[: min(ASKED, max(1, len(order) // 6))]
    known = [row for row in order if row not in asked][:TRIALS]
    lengths = halved([table.curves[row] for row in known], rungs(1, table.max_epochs, 3))
    rows = [*known, *asked]
    trials = []
    for number, (row, length) in enumerate(
        zip(rows, [*lengths, *(_first(share, len(table.curves[row])) for row in asked)], strict=True)
    ):
        values = tuple(table.curves[row][:length].tolist())
        status = Status.PAUSED if math.isfinite(values[-1]) else Status.INFEASIBLE
        trials.append(TrialRecord(number, table.config(row), status, values, length))
    method = FreezeThaw(table.space, None, table.max_epochs, seed)
    curves = method._reader.read(History(tuple(trials)))
    process = method._model(curves, rng)
    if process is None or not asked:
        return None
    low, unit = curves.scale()
    scaled = tuple(np.minimum((np.fmin.accumulate(trial.values) - low) / unit, WORST) for trial in trials)
    numbers = np.arange(len(known), len(rows))
    truth = np.minimum((table.lowest[asked] - low) / unit, WORST)
    current = np.array([scaled[trial][-1] for trial in numbers])
    return Case(
        curves=tuple(np.where(np.isfinite(curve), curve, WORST) for curve in scaled),
        features=method.embedding.features(curves.points),
        process=process,
        asked=numbers,
        ends=np.array([len(table.curves[row]) for row in asked]),
        truth=np.where(current - truth < LEAST, current, truth),
        share=share,
        max_epochs=table.max_epochs,
        seed=seed,
    )


def halved(curves: Sequence[Array], stages: Sequence[int]) -> list[int]:
    """The epochs that each curve is trained where the better third goes on at every stage."""
    lengths = [0] * len(curves)
    alive = list(range(len(curves)))
    for stage in stages:
        for i in alive:
            lengths[i] = min(stage, len(curves[i]))
        able = [i for i in alive if len(curves[i]) > stage and np.isfinite(curves[i][:stage]).all()]
        able.sort(key=lambda i: float(curves[i][:stage].min()))
        alive = able[: max(len(alive) // 3, 1)]
    return lengths


def _first(share: float, length: int) -> int:
    return max(1, round(share * length))


# --- predictions


def by_forecast(case: Case) -> Distribution:
    return forecast(case.process, case.curves, case.asked, case.ends, case.max_epochs)


def by_process(case: Case) -> Distribution:
    times = log_time(case.ends, case.max_epochs)
    mean, deviation = case.process.predict(case.features[case.asked], case.asked, times)
    return Normal(mean, deviation, case.current)


def by_last_value(case: Case) -> Distribution:
    """The error is the root mean square of what the history's curves fell after the same share."""
    falls = case.falls()
    error = max(math.sqrt(float(np.mean(falls**2))), LEAST) if len(falls) else 1.0
    return Normal(case.current, np.full(len(case.asked), error), case.current)


def by_power_law(case: Case) -> Distribution:
    """a + b t^-c by least squares for each curve, with its error by the delta method; fewer than 4 values: the last."""
    plain = by_last_value(case)
    assert isinstance(plain, Normal)
    mean, deviation = plain.mean.copy(), plain.deviation.copy()
    for i, (trial, end) in enumerate(zip(case.asked.tolist(), case.ends.tolist(), strict=True)):
        if len(case.curves[trial]) >= 4:
            mean[i], deviation[i] = _power_law(case.curves[trial], end)
    return Normal(mean, deviation, case.current)


def _power_law(curve: Array, end: int) -> tuple[float, float]:
    from scipy.optimize import least_squares

    epochs = np.arange(1, len(curve) + 1)

    def law(p: Array, t: Any) -> Any:
        return p[0] + p[1] * t ** -p[2]

    start = [float(curve[-1]), float(curve[0] - curve[-1]), 0.5]
    found = least_squares(lambda p: law(p, epochs) - curve, start, bounds=([-5, 0, 0.01], [WORST, 10, 5]))
    freedom = max(len(curve) - 3, 1)
    variance = 2 * found.cost / freedom
    _, b, c = found.x
    slope = np.array([1.0, end**-c, -b * end**-c * math.log(end)])
    at_end = float(slope @ np.linalg.pinv(found.jac.T @ found.jac) @ slope) * variance
    return float(law(found.x, end)), max(math.sqrt(max(at_end, 0.0) + variance), LEAST)


def by_deep_power_laws(case: Case) -> Distribution:
    """Kadra et al. 2023, *Scaling laws for hyperparameter optimization*, NeurIPS, section 3: ours, and smaller.

    Five networks with two hidden layers of 64 from a configuration to a, b, c of a + b t^-c, each trained on the
    absolute errors at all epochs of all curves; the mean and the deviation of the five are the prediction's.
    """
    import torch

    generator = torch.Generator().manual_seed(case.seed)
    trials = np.repeat(np.arange(len(case.curves)), [len(curve) for curve in case.curves])
    epochs = np.concatenate([np.arange(1, len(curve) + 1) for curve in case.curves])
    target = torch.tensor(np.concatenate(case.curves), dtype=torch.float32)
    x = torch.tensor(np.nan_to_num(case.features), dtype=torch.float32)
    sizes = (x.shape[1], 64, 64, 3)
    weights = [
        (torch.randn(5, n, m, generator=generator) * math.sqrt(2 / n)).requires_grad_() for n, m in pairwise(sizes)
    ]
    biases = [torch.zeros(5, 1, m, requires_grad=True) for m in sizes[1:]]
    optimiser = torch.optim.Adam([*weights, *biases], lr=3e-3)

    def laws(rows: Places, at: Places) -> torch.Tensor:  # (5, n)
        hidden = x.expand(5, -1, -1)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            hidden = torch.baddbmm(bias, torch.relu(hidden) if i else hidden, weight)
        a, b, c = hidden[:, torch.from_numpy(rows)].unbind(-1)
        softplus = torch.nn.functional.softplus
        return a + softplus(b) * torch.tensor(at, dtype=torch.float32) ** -softplus(c)

    for _ in range(300):
        optimiser.zero_grad()
        (laws(trials, epochs) - target).abs().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        found = laws(case.asked, case.ends).double().numpy()
    return Normal(found.mean(axis=0), np.maximum(found.std(axis=0, ddof=1), LEAST), case.current)


METHODS: Mapping[str, Callable[[Case], Distribution]] = {
    "forecast": by_forecast,
    "process": by_process,
    "last value": by_last_value,
    "power law": by_power_law,
    "deep power laws": by_deep_power_laws,
}


# --- scores


def scores(found: Distribution, truth: Array) -> tuple[Array, Array, float]:
    """Of each trial, the share of each level's mass that covers it, (m, levels), and the log-likelihood, (m,).

    And the rank correlation of medians with the truth, NaN where either is constant. A truth with a probability of
    its own counts by shares: Czado, Gneiting and Held 2009, *Predictive model assessment for count data*, equation 2.
    """
    from scipy.stats import rankdata

    under, until = found.below(truth - TIE), found.below(truth + TIE)
    width = np.maximum(until - under, 1e-12)[:, None]
    covered = np.clip((LEVELS - under[:, None]) / width, 0, 1)
    near = found.below(truth + WINDOW) - found.below(truth - WINDOW)
    median = found.quantiles(np.array([0.5]))[:, 0]
    rank = math.nan
    if np.ptp(median) > 0 and np.ptp(truth) > 0:
        rank = float(np.corrcoef(rankdata(median), rankdata(truth))[0, 1])
    return covered, np.log(np.maximum(near, RARE) / (2 * WINDOW)), rank


def rows_of(tables: Iterable[Table], seeds: int, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each table, share and method: the means over its trials."""
    for table in tables:
        for share in SHARES:
            cases = [case for seed in range(seeds) if (case := make_case(table, seed, share)) is not None]
            for method in methods if cases else ():
                parts = [scores(METHODS[method](case), case.truth) for case in cases]
                ranks = [rank for _, _, rank in parts if not math.isnan(rank)]
                yield {
                    "benchmark": table.benchmark,
                    "table": table.name,
                    "share": share,
                    "method": method,
                    "trials": sum(len(case.truth) for case in cases),
                    "coverage": np.vstack([covered for covered, _, _ in parts]).mean(axis=0).round(4).tolist(),
                    "log_likelihood": round(float(np.concatenate([likely for _, likely, _ in parts]).mean()), 4),
                    "rank_correlation": round(float(np.mean(ranks)), 4) if ranks else None,
                }


def lines_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The report: means over all tables, then how far the coverage of each benchmark lies from its levels."""
    head = " | ".join(f"{100 * level:.0f}" for level in LEVELS)
    yield f"| share | method | {head} | log-likelihood | rank correlation | tables |"
    yield "|---" * (5 + len(LEVELS)) + "|"
    for share, method, some in _grouped(rows):
        covered = " | ".join(f"{100 * c:.0f}" for c in np.mean([r["coverage"] for r in some], axis=0))
        likely = np.mean([r["log_likelihood"] for r in some])
        ranks = [r["rank_correlation"] for r in some if r["rank_correlation"] is not None]
        rank = f"{np.mean(ranks):.2f}" if ranks else "-"
        yield f"| {share:.0%} | {method} | {covered} | {likely:.2f} | {rank} | {len(some)} |"
    benchmarks = dict.fromkeys(row["benchmark"] for row in rows)
    yield ""
    yield f"| share | method | {' | '.join(benchmarks)} | all |"
    yield "|---" * (3 + len(benchmarks)) + "|"
    for share, method, some in _grouped(rows):
        parts = [[r for r in some if r["benchmark"] == name] for name in benchmarks]
        yield f"| {share:.0%} | {method} | {' | '.join(_away(part) for part in [*parts, some])} |"


def _grouped(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, str, list[Mapping[str, Any]]]]:
    for share in SHARES:
        for method in METHODS:
            some = [row for row in rows if (row["share"], row["method"]) == (share, method)]
            if some:
                yield share, method, some


def _away(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean and largest distance of the coverage from its levels, in points."""
    if not rows:
        return "-"
    away = 100 * np.abs(np.mean([row["coverage"] for row in rows], axis=0) - LEVELS)
    return f"{away.mean():.0f} ({away.max():.0f})"


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.search.calibration", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="rows, one a line")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="studies of each table (default: 3)")
    parser.add_argument("--half", choices=HALVES, default="odd")
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    methods = given.methods.split(",")
    if wrong := [method for method in methods if method not in METHODS]:
        parser.error(f"--methods {', '.join(wrong)}: there are {', '.join(METHODS)}.")
    asked = HALVES[given.half]
    tables = (
        table
        for folder in given.tables
        for i, table in enumerate(read_tables(folder))
        if i % 2 in asked and table.max_epochs >= FEWEST
    )
    rows = []
    for row in rows_of(tables, given.seeds, methods):
        rows.append(row)
        if given.json:
            given.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("\n".join(lines_of(rows)))


if __name__ == "__main__":
    main()
