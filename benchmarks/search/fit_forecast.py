"""Finds the coefficients of `benchmarks.search.forecast` on open tables, and prints them ready to be pasted there.

The studies are those of `benchmarks.search.calibration`, on the tables at even positions of each folder, unless --half
says otherwise. Found are the likeliest coefficients under a normal prior on each times the standard deviation of its
input; all tables and shares count the same. Before them it prints how those found on two thirds of all tables do on the
rest, and those found on all other benchmarks on each.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.calibration import FEWEST, HALVES, LEVELS, SHARES, Case, make_case, scores
from benchmarks.search.forecast import INPUTS, LEAST, Coefficients, distribution, inputs
from benchmarks.search.tables import Table, read_tables

# The inputs of each part. Others were tried, and did not clearly help (docs/calibration.md).
STILL = ("one", "first", "worst", "current", "said", "deviation", "left", "slope", "flat")
CENTRE = ("one", "first", "current", "said", "deviation", "left", "slope")
SPREAD = ("one", "left")
PRECISION, SPREAD_PRECISION = 20.0, 80.0  # of the priors of coefficients times their inputs' deviations, in trials
FREEDOM = 1.5, 1.0  # mean and deviation of the log of the degrees of freedom above 2
THIRDS = 3

Array = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Asked:
    """Trials whose end is known. `x`: (n, len(INPUTS)), `current`, `truth`, and where they come from: (n,) each."""

    x: Array
    current: Array
    truth: Array
    benchmark: NDArray[np.str_]
    table: NDArray[np.str_]
    share: Array

    def at(self, rows: NDArray[np.bool_]) -> Asked:
        return Asked(*(part[rows] for part in vars(self).values()))

    def weights(self) -> Array:
        """(n,), 1 on average: every table and share counts the same."""
        groups = [f"{b} {t} {s}" for b, t, s in zip(self.benchmark, self.table, self.share, strict=True)]
        _, group, many = np.unique(groups, return_inverse=True, return_counts=True)
        weight = 1 / many[group]
        return np.asarray(weight / weight.mean())

    def thirds(self) -> Places:
        """A number for each table, by turns in every benchmark: (n,)."""
        third = np.zeros(len(self.share), dtype=np.intp)
        for name in np.unique(self.benchmark):
            rows = self.benchmark == name
            third[rows] = np.unique(self.table[rows], return_inverse=True)[1] % THIRDS
        return third


def asked_of(cases: Iterable[tuple[Table, Case]]) -> Asked:
    found = []
    for table, case in cases:
        x = inputs(case.process, case.curves, case.asked, case.ends, case.max_epochs)
        where = [np.full(len(x), of) for of in (table.benchmark, table.name, case.share)]
        found.append((x, case.current, case.truth, *where))
    return Asked(*(np.concatenate(part) for part in zip(*found, strict=True)))


def fit(asked: Asked) -> Coefficients:
    """The likeliest coefficients."""
    fall = asked.current - asked.truth
    falls, weight = fall >= LEAST, asked.weights()
    still = _still(_columns(asked.x, STILL), falls, weight)
    centre, spread, freedom = _fallen(
        _columns(asked.x[falls], CENTRE), _columns(asked.x[falls], SPREAD), np.log(fall[falls]), weight[falls]
    )
    return Coefficients(_named(STILL, still), _named(CENTRE, centre), _named(SPREAD, spread), freedom)


def _named(names: Sequence[str], values: Array) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _columns(x: Array, names: Sequence[str]) -> Array:
    return x[:, [INPUTS.index(name) for name in names]]


def _least(loss: Callable[[Array], float], start: Array) -> Array:
    from scipy.optimize import minimize

    found: Array = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 500, "maxfun": 40_000}).x
    return found


def _still(x: Array, falls: NDArray[np.bool_], weight: Array) -> Array:
    """Logistic regression with a normal prior."""
    sign, size = np.where(falls, 1.0, -1.0), x.std(axis=0)

    def loss(p: Array) -> float:
        return float(weight @ np.logaddexp(0, sign * (x @ p)) + 0.5 * PRECISION * np.sum((p * size) ** 2))

    return _least(loss, np.zeros(x.shape[1]))


def _fallen(x: Array, of_spread: Array, y: Array, weight: Array) -> tuple[Array, Array, float]:
    """Regression with errors of Student's t, where the response is known to be above the log of LEAST.

    Coefficients of the centre, of the log of the scale, and the degrees of freedom.
    """
    from scipy.special import gammaln, stdtr

    many, size, spread_size = x.shape[1], x.std(axis=0), of_spread.std(axis=0)

    def loss(p: Array) -> float:
        centre, log_scale = x @ p[:many], of_spread @ p[many:-1]
        freedom, scale = 2 + math.exp(min(p[-1], 5.0)), np.exp(np.clip(log_scale, -5, 5))
        away = (y - centre) / scale
        one = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - 0.5 * math.log(math.pi * freedom)
        likely = one - log_scale - (freedom + 1) / 2 * np.log1p(away**2 / freedom)
        beyond = np.log(np.maximum(stdtr(freedom, (centre - math.log(LEAST)) / scale), 1e-300))
        prior = PRECISION * np.sum((p[:many] * size) ** 2) + SPREAD_PRECISION * np.sum((p[many:-1] * spread_size) ** 2)
        prior += ((p[-1] - FREEDOM[0]) / FREEDOM[1]) ** 2
        return float(0.5 * prior - weight @ (likely - beyond))

    start = np.zeros(many + of_spread.shape[1] + 1)
    start[0], start[-1] = float(y.mean()), FREEDOM[0]
    found = _least(loss, start)
    return found[:many], found[many:-1], 2 + math.exp(min(found[-1], 5.0))


def checked(asked: Asked, folds: Places) -> Iterator[str]:
    """What coefficients say of tables that they were not found on: a line for each benchmark and share, and for all."""
    covered, likely = np.empty((len(folds), len(LEVELS))), np.empty(len(folds))
    for fold in np.unique(folds):
        rows = folds == fold
        some = asked.at(rows)
        found = distribution(some.x, some.current, fit(asked.at(~rows)))
        covered[rows], likely[rows], _ = scores(found, some.truth)
    for share in SHARES:
        for name in [*np.unique(asked.benchmark), "all"]:
            rows = (asked.share == share) & ((asked.benchmark == name) | (name == "all"))
            tables = [rows & (asked.table == table) for table in np.unique(asked.table[rows])]
            levels = np.mean([covered[some].mean(axis=0) for some in tables], axis=0)
            shown = " ".join(f"{100 * level:3.0f}" for level in levels)
            yield f"{share:4.0%} {name:24} {shown}  {np.mean([likely[some].mean() for some in tables]):.2f}"


def pasted(found: Coefficients) -> str:
    """The constants as they stand in `benchmarks.search.forecast`."""

    def of(coefficients: Mapping[str, float]) -> str:
        return "{" + ", ".join(f'"{name}": {value:.3g}' for name, value in coefficients.items()) + "}"

    parts = [f"    {name}={of(vars(found)[name])}," for name in ("still", "centre", "spread")]
    return "\n".join(["FITTED = Coefficients(", *parts, f"    freedom={found.freedom:.3g},", ")"])


def cases_of(folders: Sequence[Path], seeds: int, places: Sequence[int]) -> Iterator[tuple[Table, Case]]:
    for folder in folders:
        for i, table in enumerate(read_tables(folder)):
            for seed in range(seeds if i % 2 in places and table.max_epochs >= FEWEST else 0):
                for share in SHARES:
                    case = make_case(table, seed, share)
                    if case is not None:
                        yield table, case


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.search.fit_forecast", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="studies of each table (default: 4)")
    parser.add_argument("--half", choices=HALVES, default="even")
    given = parser.parse_args()
    asked = asked_of(cases_of(given.tables, given.seeds, HALVES[given.half]))
    head = " ".join(f"{100 * level:3.0f}" for level in LEVELS)
    benchmarks, of_benchmark = np.unique(asked.benchmark, return_inverse=True)
    parts = {"two thirds of the tables": asked.thirds()}
    if len(benchmarks) > 1:
        parts["all other benchmarks"] = of_benchmark
    for name, folds in parts.items():
        print(f"Found on {name}:\n{'':29} {head}  log-likelihood")
        print("\n".join(checked(asked, folds)))
    print(pasted(fit(asked)))


if __name__ == "__main__":
    main()
