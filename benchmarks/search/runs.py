"""Which runs there are, how one is replayed, and the file in which their rows are kept."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.peers.base import Setting
from benchmarks.search.peers.registry import PEERS, make_peer
from benchmarks.search.replay import Method, Ours, replay
from benchmarks.search.tables import Table, read_tables
from rheostat.errors import SettingError, unknown
from rheostat.methods import AUTO, BOTH, SCHEDULERS, make_scheduler
from rheostat.schedule.base import Scheduler
from rheostat.space import Float, Space

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
    known = ["default", TWICE, *PEERS, BOTH, *SCHEDULERS]
    if "+" not in name and name not in known:
        raise SettingError(unknown("method", name, [*known, "SEARCH+SCHEDULE"]))
    if name not in (TWICE, *PEERS):
        _scheduler(name, Setting(Space(x=Float(0.0, 1.0)), 1, 0, 1, 1))


def make_method(name: str, setting: Setting) -> Method:
    """A method by name."""
    if name in (TWICE, *PEERS):
        return make_peer("random" if name == TWICE else name, setting)
    return Ours(_scheduler(name, setting), setting.seed)


def _scheduler(name: str, setting: Setting) -> Scheduler:
    """Ours: `default`, SEARCH+SCHEDULE, or a schedule alone, with Sobol points if it does not go with the default."""
    search, plus, schedule = name.rpartition("+")
    schedule = AUTO if name == "default" else schedule
    return make_scheduler(search if plus else AUTO, schedule, setting.space, setting.seed, None, setting.max_epochs)


def rows_of(run: Run, budgets: Sequence[float]) -> list[dict[str, str | float]]:
    """Replay a run, for the largest of these budgets."""
    table = next(
        table for table in tables_of(run.folder) if (table.benchmark, table.name) == (run.benchmark, run.table)
    )
    times = 2 if run.method == TWICE else 1
    most = times * max(budgets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # packages warn of each other
        method = make_method(run.method, Setting(table.space, table.max_epochs, run.seed, run.in_flight, most))
        found = replay(table, method, run.in_flight, most)
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
def tables_of(folder: str) -> tuple[Table, ...]:
    """The tables of a folder, read once in a process."""
    return tuple(read_tables(Path(folder)))


def done_runs(file: Path, budgets: Sequence[float]) -> set[tuple[str, str, str, int, int]]:
    """The keys of the runs that have a row for each of the budgets."""
    met: dict[tuple[str, str, str, int, int], set[float]] = {}
    for row in read_rows(file) if file.exists() else ():
        key = (row["benchmark"], row["table"], row["method"], row["seed"], row["in_flight"])
        met.setdefault(key, set()).add(row["budget"])
    return {key for key, found in met.items() if found >= set(budgets)}


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file; a last line that was cut off is left out."""
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def run_all(runs: Sequence[Run], budgets: Sequence[float], file: Path, processes: int) -> None:
    """Replay the runs in processes of one thread each, and append their rows as they end.

    A run in which a package raises is named, and costs only that run. Raises SystemExit where there were such, at
    the end, and at once where a package is missing.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and (text := file.read_text()) and not text.endswith("\n"):
        file.write_text(text[: text.rfind("\n") + 1])  # a line that was cut off
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool, file.open("a") as out:
        futures = {pool.submit(rows_of, run, budgets): run for run in runs}
        failed = 0
        for n, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            name = f"{run.benchmark}/{run.table} {run.method} seed {run.seed}, {run.in_flight} in flight"
            try:
                rows = future.result()
            except SettingError as error:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(str(error)) from error
            except Exception:  # the edge of a worker, in which other people's packages run
                failed += 1
                print(f"{n}/{len(runs)} {name} FAILED\n{traceback.format_exc()}", flush=True)
                continue
            out.write("".join(json.dumps(row) + "\n" for row in rows))
            out.flush()
            found = f"regret {rows[-1]['regret']:.3g} at {rows[-1]['budget']:g}"
            print(f"{n}/{len(runs)} {name}: {found}, {rows[-1]['decision_seconds']:.2f} s of deciding", flush=True)
    if failed:
        raise SystemExit(f"{failed} of {len(runs)} runs failed: the same command runs them again.")
