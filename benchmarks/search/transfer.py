"""What earlier studies of the same space are worth, and what misleading ones cost.

    python -m benchmarks.search.transfer --tables FOLDER --kept FOLDER --json FILE [--every 1] [--seeds 2] [--budget 20]

Each table is left out in turn. Earlier studies are the default, replayed for 20 full trainings on other tables of the
same benchmark (they are kept in a folder), chosen by chance. The default then runs on the table that was left out:
`none`, without them; `1`, `3` and `8`, with what `rheostat.search.transfer` learns from so many; `reversed`, with
three in which the worst values are the best; and `foreign`, with three of another benchmark that bear this one's names.
The configurations to be tried first take the place of the method's own starts, as those that a user enqueued.

Prints the mean regret (0: the best of the table, 1: its median; at most 1) at full trainings, and the mean difference
from `none` with its standard error over tables. Runs that the file has are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.replay import Ours, replay
from benchmarks.search.runs import read_rows
from benchmarks.search.tables import Table, read_tables
from rheostat.methods import AUTO, make_scheduler
from rheostat.schedule.base import Scheduler
from rheostat.search.transfer import Earlier, learn
from rheostat.space import Space
from rheostat.types import Assignment, Config, History, Start, Status, TrialRecord

BUDGETS = (0.5, 1, 2, 5, 10, 20)
KINDS = {"none": 0, "1": 1, "3": 3, "8": 8, "reversed": 3, "foreign": 3}  # and how many studies
EARLIER_SEED, EARLIER_BUDGET = 1000, 20.0


@dataclass(frozen=True)
class Led:
    """A scheduler whose first new trials have these configurations; the rest is its own. With `whole`, to the end."""

    inner: Scheduler
    first: Sequence[Config]
    whole: int | None = None

    adaptive = True

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        number = len(history.trials)
        found: list[Assignment] = []
        for assignment in self.inner.next(history, free, rng):
            if isinstance(assignment, Start):
                if number < len(self.first):
                    assignment = Start(self.first[number], self.whole or assignment.until_epoch)
                number += 1
            found.append(assignment)
        return found


def default(table: Table, space: Space, seed: int) -> Scheduler:
    """The default method, on a space that may have priors."""
    return make_scheduler(AUTO, AUTO, space, seed, None, table.max_epochs)


def earlier(table: Table, folder: Path) -> Earlier:
    """The default's study of a table, run once and kept."""
    file = folder / f"{table.benchmark}-{table.name}.json"
    if not file.exists():
        method = Ours(default(table, table.space, EARLIER_SEED), EARLIER_SEED)
        replay(table, method, 1, EARLIER_BUDGET)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([[dict(t.config), str(t.status), t.values] for t in method.trials]))
    rows = enumerate(json.loads(file.read_text()))
    trials = (TrialRecord(n, Config(config), Status(s), tuple(values), len(values)) for n, (config, s, values) in rows)
    return Earlier(table.name, table.space, tuple(trials))


def reversed_study(study: Earlier) -> Earlier:
    """The same trials, the worst of those that did not diverge the best."""
    return replace(study, trials=tuple(replace(t, values=tuple(-v for v in t.values)) for t in study.trials))


def renamed(study: Earlier, table: Table) -> Earlier:
    """The same values at points of another table's space: its hyperparameters stand for those of the study, in turn."""
    order = np.arange(len(table.space)) % len(study.space)
    configs = [table.space.decode(study.space.encode(trial.config)[order]) for trial in study.trials]
    trials = tuple(replace(trial, config=config) for trial, config in zip(study.trials, configs, strict=True))
    return Earlier(study.name, table.space, trials)


def studies(kind: str, table: Table, tables: Sequence[Table], seed: int, folder: Path) -> list[Earlier]:
    """The earlier studies for a table; fewer where there are no more."""
    same = [other for other in tables if other.benchmark == table.benchmark and other.name != table.name]
    if kind == "foreign":
        same = [other for other in tables if other.benchmark != table.benchmark]
    place = [other.name for other in tables].index(table.name)
    order = np.random.default_rng([seed, place]).permutation(len(same))[: KINDS[kind]]
    found = [earlier(same[i], folder) for i in order]
    if kind == "reversed":
        return [reversed_study(study) for study in found]
    return [renamed(study, table) for study in found] if kind == "foreign" else found


@dataclass(frozen=True)
class Options:
    """What of the lessons is used: so many configurations first, trained to their end if `whole`; and priors."""

    first: int
    priors: bool
    whole: bool


def regrets(table: Table, known: Sequence[Earlier], seed: int, budget: float, options: Options) -> list[float]:
    """At each of the budgets, at most 1. Without earlier studies, those of the default."""
    lessons = learn(table.space, known, options.first) if known else None
    space = lessons.space if lessons and options.priors else table.space
    first = lessons.first if lessons else ()
    method = Led(default(table, space, seed), first, table.max_epochs if options.whole else None)
    found = replay(table, Ours(method, seed), 1, budget)
    lowest = [found.at(b * table.full_training) for b in BUDGETS if b <= budget]
    return [min(table.regret(value), 1.0) if math.isfinite(value) else 1.0 for value in lowest]


def lines_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The report, for each benchmark and all of them; in every line, tables and seeds that were run without as well."""
    seen = {(row["benchmark"], row["table"], row["seed"], row["kind"]): row["regrets"] for row in rows}
    for name in [*dict.fromkeys(row["benchmark"] for row in rows), "all"]:
        for kind in dict.fromkeys(row["kind"] for row in rows):
            runs: dict[tuple[str, str], list[tuple[list[float], list[float]]]] = {}
            for (benchmark, table, seed, its), found in seen.items():
                if its == kind and name in (benchmark, "all") and (benchmark, table, seed, "none") in seen:
                    runs.setdefault((benchmark, table), []).append((found, seen[benchmark, table, seed, "none"]))
            pairs = [np.mean(some, axis=0) for some in runs.values()]  # of each table, over its seeds
            if not pairs:
                continue
            ours, none = np.array([one for one, _ in pairs]), np.array([other for _, other in pairs])
            error = (ours - none).std(axis=0, ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0 * ours[0]
            yield f"{name} {kind:9} {len(pairs):3} tables" + "".join(f"{mean:7.3f}" for mean in ours.mean(axis=0))
            if kind != "none":
                less = (ours - none).mean(axis=0)
                differences = [f" {mean:+.3f}±{e:.3f}" for mean, e in zip(less, error, strict=True)]
                yield f"{' ' * len(name)}   from none" + "".join(differences)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.search.transfer", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--kept", type=Path, required=True, metavar="FOLDER", help="of earlier studies")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="rows, one a line")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th table is left out")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="0 to N-1 (default: 2)")
    parser.add_argument("--budget", type=float, default=20.0, metavar="B", help="in full trainings (default: 20)")
    parser.add_argument("--first", type=int, default=5, metavar="N", help="configurations that are tried first")
    parser.add_argument("--no-priors", action="store_true", help="only the configurations")
    parser.add_argument("--whole", action="store_true", help="train them to the end at once")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"--kinds {', '.join(wrong)}: there are {', '.join(KINDS)}.")
    options = Options(given.first, not given.no_priors, given.whole)
    tables = [table for folder in given.tables for table in read_tables(folder)]
    rows = list(read_rows(given.json)) if given.json.exists() else []
    done = {(row["benchmark"], row["table"], row["kind"], row["seed"]) for row in rows}
    for table in tables[:: given.every]:
        for seed in range(given.seeds):
            for kind in kinds:
                key = {"benchmark": table.benchmark, "table": table.name, "kind": kind, "seed": seed}
                if tuple(key.values()) in done:
                    continue
                known = studies(kind, table, tables, seed, given.kept)
                rows.append({**key, "regrets": regrets(table, known, seed, given.budget, options)})
                with given.json.open("a") as out:
                    out.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(lines_of(rows)))


if __name__ == "__main__":
    main()
