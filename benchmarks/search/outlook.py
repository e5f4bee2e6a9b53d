"""Asks whether studies gain what their outlook says, and what stopping by it is worth.

The default method is replayed on tables for 16 full trainings (64, where a trial is a single epoch). Whenever the
epochs spent have grown by 2 %, from half a full training on, the outlook is asked for a quarter, once and three
times as many more epochs, and compared with what they really gained. Columns 5 to 95 say how often the truth lay at or
below that quantile, in percent; one that is 0, which has a probability of its own, counts by shares. Gains are in units
of the table, whose best is 0 and whose median is 1, and capped at 1.

Rules for stopping end a replay at the first such moment that lets them; the best of 16 full trainings is what they are
compared with. `outlook A` ends where as many epochs again, and at least 8 full trainings, gain more than the tolerance
with a chance below A, and a full training was spent; `patience N` where the last N trials to begin, and all that was
trained meanwhile, gained no more than the tolerance; `fixed N` after N full trainings. Tables at even positions of a
folder were used to choose; reported are those at odd ones, unless --half says otherwise.

A file of --json keeps the replays, and what is in it is not replayed again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.replay import Ours, replay
from benchmarks.search.runs import tables_of
from benchmarks.search.tables import Table
from rheostat.methods import AUTO, make_scheduler
from rheostat.schedule.outlook import AHEAD, HARDLY, Outlook, outlook
from rheostat.types import Assignment, Config, History, TrialRecord

TRAININGS, SINGLES = 16, 64  # full trainings of a replay; where a trial is one epoch
FIRST = 0.5  # full trainings, when the outlook is asked for first
GROWTH = 1.02  # the factor on them until it is again
MORE = (0.25, 1.0, 3.0)  # epochs that are asked for, by those spent
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
TOLERANCES = (0.01, 0.05, 0.2)  # of what separates a table's median from its best

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """A study after `spent` epochs: its lowest value, how many trials it had begun, what its outlooks were."""

    spent: int
    lowest: float
    trials: int
    outlooks: tuple[Outlook, ...]  # for each of MORE; empty where too little was known


@dataclass
class Watched:
    """The default method, and what it looked like now and then."""

    method: Ours
    table: Table
    moments: list[Moment] = field(default_factory=list)
    won: list[tuple[int, float, int]] = field(default_factory=list)  # epochs, a new lowest value, the trial that has it
    spent: int = 0
    _next: float = math.nan
    _epochs: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._next = FIRST * self.table.full_training

    def next(self, free: int) -> Sequence[Assignment]:
        return self.method.next(free)

    def placed(self, number: int, config: Config) -> None:
        self.method.placed(number, config)

    def tell(self, trial: TrialRecord) -> None:
        self.method.tell(trial)
        self.spent += trial.epochs - self._epochs.get(trial.number, 0)
        self._epochs[trial.number] = trial.epochs
        value = min((v for v in trial.values if math.isfinite(v)), default=math.inf)
        if value < self.lowest:
            self.won.append((self.spent, value, trial.number))
        if self.spent >= self._next:
            self._next = self.spent * GROWTH
            self.moments.append(Moment(self.spent, self.lowest, len(self.method.trials), tuple(self._outlooks())))

    @property
    def lowest(self) -> float:
        return self.won[-1][1] if self.won else math.inf

    def _outlooks(self) -> Iterator[Outlook]:
        history = History(tuple(self.method.trials))
        for more in MORE:
            said = outlook(history, self.table.max_epochs, max(round(more * self.spent), 1))
            if said is not None:
                yield said


@dataclass(frozen=True)
class Study:
    """A replay, as it is kept."""

    key: tuple[str, str, int, int]  # benchmark, table, seed, in flight
    full: float
    best: float
    span: float
    spent: int
    moments: tuple[Moment, ...]
    won: tuple[tuple[int, float, int], ...]

    def lowest(self, spent: float) -> float:
        """The lowest value after so many epochs."""
        return min((value for at, value, _ in self.won if at <= spent), default=math.inf)

    def regret(self, value: float) -> float:
        return min((value - self.best) / self.span, 1.0)


def run(table: Table, seed: int, in_flight: int) -> Study:
    budget = TRAININGS if table.max_epochs > 1 else SINGLES
    method = make_scheduler(AUTO, AUTO, table.space, seed, None, table.max_epochs)
    watched = Watched(Ours(method, seed), table)
    replay(table, watched, in_flight, budget)
    return Study(
        (table.benchmark, table.name, seed, in_flight),
        table.full_training,
        table.best,
        table.median - table.best,
        watched.spent,
        tuple(watched.moments),
        tuple(watched.won),
    )


def to_json(study: Study) -> dict[str, Any]:
    moments = [
        [m.spent, m.lowest, m.trials, [[o.spent, o.epochs, o.scale, o.new, o.begun] for o in m.outlooks]]
        for m in study.moments
        if math.isfinite(m.lowest)
    ]
    return {**vars(study), "moments": moments}


def from_json(row: Mapping[str, Any]) -> Study:
    moments = tuple(
        Moment(spent, lowest, trials, tuple(Outlook(*said) for said in outlooks))
        for spent, lowest, trials, outlooks in row["moments"]
    )
    won = tuple((spent, value, trial) for spent, value, trial in row["won"])
    return Study(tuple(row["key"]), row["full"], row["best"], row["span"], row["spent"], moments, won)


# -- calibration ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What was said, and what came: the real gain, whether a trial that had begun brought it, a table's unit."""

    said: Outlook
    gain: float
    begun: bool
    unit: float

    def rank(self) -> tuple[float, float]:
        """Where the truth lies among what was said: the probability of less, and of no more."""
        most = 1 - self.said.chance(self.gain)
        return (0.0 if self.gain <= 0 else most), most

    def said_of_unit(self) -> float:
        """The expected gain, capped at the table's unit, by that: the integral of the chances until there."""
        gains = np.linspace(0, 1, 101) ** 3
        return float(np.trapezoid([self.said.chance(gain * self.unit) for gain in gains], gains))


def cases(studies: Sequence[Study], more: int) -> list[Case]:
    found = []
    for study in studies:
        for moment in study.moments:
            if moment.outlooks and (end := moment.spent + moment.outlooks[more].epochs) <= study.spent:
                gain = moment.lowest - study.lowest(end)
                winner = next((n for at, value, n in study.won if moment.spent < at and value < moment.lowest), -1)
                found.append(Case(moment.outlooks[more], gain, 0 <= winner < moment.trials, study.span))
    return found


def calibration(studies: Sequence[Study]) -> Iterator[str]:
    titles = [
        "more",
        "asked",
        *(f"{level:.0%}" for level in LEVELS),
        "in 90%",
        "mean said",
        "real",
        "begun said",
        "real",
    ]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * (len(LEVELS) + 7)}"
    for index, more in enumerate(MORE):
        found = cases(studies, index)
        if not found:
            continue
        below = [
            np.mean([min(max((level - low) / max(high - low, 1e-12), 0), 1) for low, high in map(Case.rank, found)])
            for level in LEVELS
        ]
        inside = np.mean([c.said.low <= c.gain <= c.said.high for c in found])
        said = np.mean([c.said_of_unit() for c in found])
        real = np.mean([min(c.gain / c.unit, 1) for c in found])
        gained = [c for c in found if c.gain > 0]
        begun = np.mean([c.said.share_begun for c in gained]), np.mean([c.begun for c in gained])
        cells = [f"x {1 + more:g}", str(len(found)), *(f"{share:.0%}" for share in below), f"{inside:.0%}"]
        yield f"| {' | '.join([*cells, f'{said:.3f}', f'{real:.3f}', *(f'{b:.2f}' for b in begun)])} |"


# -- stopping ------------------------------------------------------------------------------------------------

Rule = Callable[[Study, int, float], bool]  # at the moment of this index, with this tolerance in units of the metric


def by_outlook(level: float) -> Rule:
    """As `rheostat.schedule.outlook.enough`, where the level is 5 %."""

    def rule(study: Study, index: int, tolerance: float) -> bool:
        now = study.moments[index]
        if now.spent < study.full or not now.outlooks:
            return False
        said = now.outlooks[MORE.index(1.0)]
        times = max(AHEAD * study.full / now.spent, 1.0)
        return replace(said, new=times * said.new, begun=times * said.begun).chance(tolerance) < level

    return rule


def by_patience(trials: int) -> Rule:
    def rule(study: Study, index: int, tolerance: float) -> bool:
        now = study.moments[index]
        before = [moment for moment in study.moments[:index] if moment.trials <= now.trials - trials]
        return bool(before) and before[-1].lowest - now.lowest <= tolerance

    return rule


def fixed(trainings: float) -> Rule:
    def rule(study: Study, index: int, tolerance: float) -> bool:
        return study.moments[index].spent >= trainings * study.full

    return rule


RULES: Mapping[str, Rule] = {
    **{f"outlook {level:g}": by_outlook(level) for level in (HARDLY, 0.1, 0.2)},
    **{f"patience {trials}": by_patience(trials) for trials in (10, 20, 40)},
    **{f"fixed {trainings:g}": fixed(trainings) for trainings in (4, 8, 12)},
}


def stopping(studies: Sequence[Study], tolerance: float) -> Iterator[str]:
    """Of each rule: epochs not spent, regret lost by that, and how often more than the tolerance was lost."""
    yield "| rule | stopped | epochs saved | regret lost | lost more than the tolerance | of those stopped |"
    yield "|---|---|---|---|---|---|"
    for name, rule in RULES.items():
        saved, lost, more, stopped = [], [], [], []
        for study in studies:
            end = study.lowest(study.spent)
            at = next((i for i in range(len(study.moments)) if rule(study, i, tolerance * study.span)), None)
            spent, value = (study.spent, end) if at is None else (study.moments[at].spent, study.moments[at].lowest)
            stopped.append(at is not None)
            saved.append(1 - spent / study.spent)
            lost.append(study.regret(value) - study.regret(end))
            more.append(value - end > tolerance * study.span)
        shares = f"{np.mean(stopped):.0%} | {np.mean(saved):.0%} | {np.mean(lost):.3f} | {np.mean(more):.0%}"
        yield f"| {name} | {shares} | {sum(more)}/{sum(stopped)} |"


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.search.outlook", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="0 to N-1 (default: 1)")
    parser.add_argument("--in-flight", type=int, default=8, metavar="K", help="trials at a time (default: 8)")
    parser.add_argument("--half", choices=("odd", "even", "both"), default="odd", help="positions of tables")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="replays are appended to it")
    given = parser.parse_args()
    kept = [from_json(json.loads(line)) for line in given.json.read_text().splitlines()] if given.json.exists() else []
    known = {study.key: study for study in kept}
    studies = []
    for seed in range(given.seeds):
        for folder in given.tables:
            for position, table in enumerate(tables_of(folder)):
                if given.half not in ("both", "odd" if position % 2 else "even"):
                    continue
                key = (table.benchmark, table.name, seed, given.in_flight)
                if key not in known:
                    known[key] = run(table, seed, given.in_flight)
                    with given.json.open("a") as file:
                        file.write(json.dumps(to_json(known[key])) + "\n")
                    print(*key, f"{len(known[key].moments)} moments", flush=True)
                studies.append(known[key])
    print(f"\n{len(studies)} studies\n", *calibration(studies), sep="\n")
    for tolerance in TOLERANCES:
        print(f"\nTolerance {tolerance:g}\n", *stopping(studies, tolerance), sep="\n")


if __name__ == "__main__":
    main()
