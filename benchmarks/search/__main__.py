"""Replays search methods on measured learning curves, and appends what they found to a file of JSON lines.

A row {benchmark, table, method, seed, in_flight, budget, regret, decision_seconds} says: when `budget` full trainings
were paid for in epochs, with `in_flight` trials at a time, the best value seen had this regret (0: the best of the
table, 1: its median; before any value was seen, that of the table's worst row). decision_seconds are the seconds of
processor time that the whole run of --budget spent deciding; they are the same in all rows of a run. Runs whose rows
are in the file already are not run again, so a run that was cut off goes on.

Methods: default (of rheostat.tune); any SEARCH+SCHEDULE of Rheostat, such as random+fifo, or a SCHEDULE alone, with
Sobol points; random-2x (random search, whose regret at a budget is the one at twice that); and the peers {peers}.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.search.peers.base import Setting
from benchmarks.search.peers.registry import PEERS, make_peer
from benchmarks.search.replay import BUDGETS, Method, Ours, replay
from benchmarks.search.tables import Table, read_tables
from rheostat.errors import SettingError, unknown
from rheostat.methods import DEFAULT_SCHEDULE, DEFAULT_SEARCH, SCHEDULERS, SEARCHERS, make_scheduler

TWICE = "random-2x"


@dataclass(frozen=True, slots=True)
class Run:
    """One method, once, on one table."""

    folder: str
    benchmark: str
    table: str
    method: str
    seed: int
    in_flight: int

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        return self.benchmark, self.table, self.method, self.seed, self.in_flight


def check_method(name: str) -> None:
    """Raises SettingError for a name that `make_method` does not know."""
    search, plus, schedule = name.rpartition("+")
    if plus and search not in SEARCHERS:
        raise SettingError(unknown("search", search, SEARCHERS))
    if plus and schedule not in SCHEDULERS:
        raise SettingError(unknown("schedule", schedule, SCHEDULERS))
    if not plus and name not in (known := ["default", TWICE, *PEERS, *SCHEDULERS]):
        raise SettingError(unknown("method", name, [*known, "SEARCH+SCHEDULE"]))


def make_method(name: str, setting: Setting) -> Method:
    """A method by name."""
    check_method(name)
    if name == TWICE or name in PEERS:
        return make_peer("random" if name == TWICE else name, setting)
    search, plus, schedule = name.rpartition("+")
    if name == "default":
        search, schedule = DEFAULT_SEARCH, DEFAULT_SCHEDULE
    elif not plus:
        search = "sobol"
    scheduler = make_scheduler(search, schedule, setting.space, setting.seed, None, setting.max_epochs)
    return Ours(scheduler, setting.seed)


def rows_of(run: Run, budgets: Sequence[float]) -> list[dict[str, str | float]]:
    """Replay a run, for the largest of these budgets."""
    table = next(table for table in _tables(run.folder) if (table.benchmark, table.name) == (run.benchmark, run.table))
    times = 2 if run.method == TWICE else 1
    budget = times * max(budgets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # packages warn of each other
        method = make_method(run.method, Setting(table.space, table.max_epochs, run.seed, run.in_flight, budget))
        found = replay(table, method, run.in_flight, budget)
    worst = float(np.max(table.lowest[np.isfinite(table.lowest)]))
    rows: list[dict[str, str | float]] = []
    for budget in budgets:
        lowest = found.at(times * budget * table.full_training)
        rows.append(
            {
                "benchmark": run.benchmark,
                "table": run.table,
                "method": run.method,
                "seed": run.seed,
                "in_flight": run.in_flight,
                "budget": budget,
                "regret": table.regret(lowest if math.isfinite(lowest) else worst),
                "decision_seconds": found.decision_seconds,
            }
        )
    return rows


@cache
def _tables(folder: str) -> tuple[Table, ...]:
    return tuple(read_tables(Path(folder)))


def done_runs(file: Path, budgets: Sequence[float]) -> set[tuple[str, str, str, int, int]]:
    """The keys of the runs that have a row for each of the budgets."""
    met: dict[tuple[str, str, str, int, int], set[float]] = {}
    for row in read_rows(file) if file.exists() else ():
        key = (row["benchmark"], row["table"], row["method"], row["seed"], row["in_flight"])
        met.setdefault(key, set()).add(row["budget"])
    return {key for key, found in met.items() if found >= set(budgets)}


def read_rows(file: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    """The rows of a file; a last line that was cut off is left out."""
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def main() -> None:
    description = (__doc__ or "").replace("{peers}", ", ".join(PEERS))
    parser = argparse.ArgumentParser("benchmarks.search", None, description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--tables", nargs="+", required=True, metavar="FOLDER", help="meta.json with .npz files, or such"
    )
    parser.add_argument("--methods", default="default,asha,hyperband,random,random-2x,optuna-tpe-hyperband")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="0 to N-1 (default: 10)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1], metavar="K", help="trials at a time")
    parser.add_argument("--budget", type=float, default=20, metavar="B", help="in full trainings (default: 20)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="rows are appended to it")
    parser.add_argument("--processes", type=int, default=1, metavar="P")
    parser.add_argument("--only", default="", metavar="TEXT", help="tables whose FOLDER/NAME contains it")
    given = parser.parse_args()
    budgets = [budget for budget in BUDGETS if budget <= given.budget]
    methods = given.methods.split(",")
    try:
        if not budgets:
            raise SettingError(f"--budget {given.budget:g}: give at least {min(BUDGETS):g}.")
        for method in methods:
            check_method(method)
    except SettingError as error:
        parser.error(str(error))
    done = done_runs(given.json, budgets)
    runs = [
        run
        for seed in range(given.seeds)
        for folder in given.tables
        for table in _tables(folder)
        if given.only in f"{table.benchmark}/{table.name}"
        for in_flight in given.in_flight
        for method in methods
        if (run := Run(folder, table.benchmark, table.name, method, seed, in_flight)).key not in done
    ]
    print(f"{len(runs)} runs to do, {len(done)} done")
    run_all(runs, budgets, given.json, given.processes)


def run_all(runs: Sequence[Run], budgets: Sequence[float], file: Path, processes: int) -> None:
    """Replay the runs in processes of one thread each, and append their rows as they end."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and (text := file.read_text()) and not text.endswith("\n"):
        file.write_text(text[: text.rfind("\n") + 1])  # a line that was cut off
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool, file.open("a") as out:
        futures = {pool.submit(rows_of, run, budgets): run for run in runs}
        for n, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            try:
                rows = future.result()
            except SettingError as error:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(str(error)) from error
            out.write("".join(json.dumps(row) + "\n" for row in rows))
            out.flush()
            last = rows[-1]
            print(
                f"{n}/{len(runs)} {run.benchmark}/{run.table} {run.method} seed {run.seed}, {run.in_flight} in flight: "
                f"regret {last['regret']:.3g} at {last['budget']:g}, {last['decision_seconds']:.2f} s of deciding",
                flush=True,
            )


if __name__ == "__main__":
    main()
