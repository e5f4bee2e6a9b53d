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
from pathlib import Path

from benchmarks.search.peers.registry import PEERS
from benchmarks.search.replay import BUDGETS
from benchmarks.search.runs import Run, check_method, done_runs, run_all, tables_of
from rheostat.errors import SettingError


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
        for table in tables_of(folder)
        if given.only in f"{table.benchmark}/{table.name}"
        for in_flight in given.in_flight
        for method in methods
        if (run := Run(folder, table.benchmark, table.name, method, seed, in_flight)).key not in done
    ]
    print(f"{len(runs)} runs to do, {len(done)} done")
    run_all(runs, budgets, given.json, given.processes)


if __name__ == "__main__":
    main()
