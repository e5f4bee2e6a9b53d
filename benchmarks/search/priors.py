"""Whether priors help where they are right, and do no harm where they are wrong.

    python -m benchmarks.search.priors --tables FOLDER [--every 3] [--seeds 3] [--sure 0.6] [--in-flight 1]

On each table the default runs three times from each seed: without priors; with a right one, a `Prior` on every
hyperparameter at a configuration drawn from the best 1 % of the table; and with a wrong one, drawn from the worst 10 %
of those that do not diverge. Prints the mean regret (0: the best of the table, 1: its median) at full trainings.

A regret counts as 2 where it is above: with a wrong prior it may be hundreds, and one run would make the mean.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.search.replay import Ours, replay
from benchmarks.search.tables import Table, read_tables
from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.space import Prior, Space

BUDGETS = (1, 2, 5, 10, 20)
KINDS = ("none", "right", "wrong")
MOST = 2.0
FEWEST = 50  # configurations, below which the best of them are soon met without a prior


def with_prior(table: Table, row: int, sure: float) -> Space:
    """The space of a table with priors at the configuration of a row."""
    config = table.config(row)
    return Space({name: replace(part, prior=Prior(config[name], sure)) for name, part in table.space.items()})


def spaces(table: Table, sure: float, seed: int) -> dict[str, Space]:
    """By kind of prior."""
    rng = np.random.default_rng([seed, len(table.curves)])
    order = np.argsort(table.lowest, kind="stable")
    finite = order[np.isfinite(table.lowest[order])]
    best = order[: max(len(order) // 100, 1)]
    worst = finite[-max(len(finite) // 10, 1) :]
    return {
        "none": table.space,
        "right": with_prior(table, int(rng.choice(best)), sure),
        "wrong": with_prior(table, int(rng.choice(worst)), sure),
    }


def regrets(table: Table, space: Space, seed: int, in_flight: int, budgets: Sequence[int]) -> list[float]:
    """At each of the budgets."""
    method = Ours(FreezeThaw(space, None, table.max_epochs, seed), seed)
    found = replay(table, method, in_flight, max(budgets))
    lowest = [found.at(budget * table.full_training) for budget in budgets]
    return [min(table.regret(value), MOST) if math.isfinite(value) else MOST for value in lowest]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.search.priors", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="TEXT", help="tables whose FOLDER/NAME contains it")
    parser.add_argument("--every", type=int, default=3, metavar="N", help="every N-th table (default: 3)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N-1 (default: 3)")
    parser.add_argument("--sure", type=float, default=0.6, metavar="P", help="of the priors (default: 0.6)")
    parser.add_argument("--in-flight", type=int, default=1, metavar="K", help="trials at a time")
    parser.add_argument("--budget", type=int, default=20, metavar="B", help="in full trainings (default: 20)")
    given = parser.parse_args()
    budgets = [budget for budget in BUDGETS if budget <= given.budget]
    read = [table for folder in given.tables for table in read_tables(folder)]
    tables = [t for t in read if given.only in f"{t.benchmark}/{t.name}" and len(t.curves) >= FEWEST]
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for table in tables[:: given.every]:
        for seed in range(given.seeds):
            for kind, space in spaces(table, given.sure, seed).items():
                found[kind].append(regrets(table, space, seed, given.in_flight, budgets))
        print(f"{table.benchmark}/{table.name}", flush=True)
        for kind in KINDS:
            show(kind, found[kind][-given.seeds :])
    print(f"all {len(found['none']) // given.seeds} tables, at {', '.join(map(str, budgets))} full trainings")
    for kind in KINDS:
        show(kind, found[kind])


def show(kind: str, runs: list[list[float]]) -> None:
    print(f"  {kind:6}" + "".join(f"{value:8.3f}" for value in np.mean(runs, axis=0)), flush=True)


if __name__ == "__main__":
    main()
