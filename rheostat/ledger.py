"""The order of decisions: which assignments are open, and which may be settled next.

A search that learns from results would decide differently whenever a worker is a little faster. So decisions are
made in *logical* time, in which every epoch takes one tick: of the assignments in flight, the one that ends at the
earliest tick (the earlier decision first) is settled first, however long each took on the wall clock. Decision n
then sees the same results with one worker, two, or sixty-four lanes, and after a crash. It is the conservative
simulation of Chandy and Misra (1979). The price is that a decision waits while a slower trial in flight may still
end at an earlier tick; with more trials in flight than workers, workers have other work meanwhile.

Where results change nothing (random search, first in first out), assignments are settled as they end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rheostat.records.store import AssignmentRow, NewTrial, TrialRow
from rheostat.types import (
    NO_GOALS,
    Assignment,
    Config,
    Continue,
    Goals,
    History,
    Outcome,
    Report,
    Start,
    Status,
    Stop,
    TrialRecord,
)


@dataclass
class _Known:
    """A trial with everything reported so far; `settled` is how many epochs decisions may see."""

    record: TrialRecord  # as decisions see it
    values: list[float]
    measured: list[dict[str, float]] = field(default_factory=list)  # for further goals: as last measured, by epoch
    settled: int = 0


@dataclass(frozen=True)
class Decision:
    """Assignments made ready to be recorded and trained."""

    rows: list[AssignmentRow]
    new_trials: list[NewTrial]
    stopped: dict[int, str]


class Ledger:
    """All trials and assignments of a study. `sign` is -1 where the metric is maximised."""

    def __init__(self, metric: str, sign: int, in_order: bool, goals: Goals = NO_GOALS) -> None:
        self.metric, self.sign, self.in_order, self.goals = metric, sign, in_order, goals
        self.clock = 0
        self._trials: list[_Known] = []
        self._open: dict[int, AssignmentRow] = {}  # by trial, in order of decision; unsettled
        self.decisions = 0
        self._visible: list[TrialRecord] = []
        self.epochs = 0  # trained so far, all trials together

    # -- what happened ---------------------------------------------------------------------------------------

    def restore(
        self, trials: Sequence[TrialRow], reports: Iterable[Report], assignments: Sequence[AssignmentRow]
    ) -> None:
        """Take up a recorded study where it was left."""
        told: dict[int, list[Report]] = {}
        for report in reports:
            told.setdefault(report.trial, []).append(report)
        for t in trials:  # parents come before their children, and all their values are needed
            self._add(TrialRecord(t.number, t.config, Status.TRAINING, parent=t.parent, born=t.born, arm=t.arm))
            for report in told.get(t.number, ()):
                self.report(report)
        for row in assignments:
            self.decisions = max(self.decisions, row.number + 1)
            self.clock = max(self.clock, row.clock)
            self._open[row.trial] = row
            self._show(row.trial, status=Status.TRAINING, until=row.until_epoch)
            if row.settled:
                self._settle(row)
        for trial in trials:
            if trial.status.ended and trial.number not in self._open:
                self._show(trial.number, status=trial.status, reason=trial.reason)

    def set_aside(self, trials: Iterable[int]) -> None:
        """Leave the open assignments of these trials to somebody else (who asked for them)."""
        for trial in trials:
            if self.is_open(trial):
                del self._open[trial]

    def report(self, report: Report) -> None:
        """Note a report; a repeated or intermediate one changes nothing."""
        known = self._trials[report.trial]
        if report.epoch_end and report.epoch == len(known.values) + 1:
            known.values.append(self.sign * report.metrics.get(self.metric, math.nan))
            if self.goals:
                before = known.measured[-1] if known.measured else {}
                known.measured.append(self.goals.carried(before, report.metrics))
            self.epochs += 1

    def conclude(self, outcome: Outcome) -> None:
        """Note how the open assignment of a trial ended."""
        row = self._open[outcome.trial]
        self._open[outcome.trial] = replace(row, outcome=outcome.status, end_epoch=outcome.epoch)
        self._show(outcome.trial, status=Status.TRAINING, reason=outcome.reason)

    # -- what may be decided ---------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Assignments that are not settled yet."""
        return len(self._open)

    def is_open(self, trial: int) -> bool:
        """Whether a trial has an assignment that has not ended."""
        row = self._open.get(trial)
        return row is not None and row.outcome is None

    @property
    def training(self) -> list[AssignmentRow]:
        """Assignments that have not ended."""
        return [row for row in self._open.values() if row.outcome is None]

    def settle_next(self) -> AssignmentRow | None:
        """Settle the next assignment, if one may be: its results become visible to decisions."""
        ended = [row for row in self._open.values() if row.outcome is not None]
        if not ended:
            return None
        first = min(ended, key=self._end) if self.in_order else ended[0]
        if self.in_order and any(self._earliest_end(row) < self._end(first) for row in self.training):
            return None
        self.clock = max(self.clock, self._end(first)[0])
        self._settle(first)
        return first

    def _end(self, row: AssignmentRow) -> tuple[int, int]:
        """When an ended assignment ended: the tick, and the number of its decision."""
        ticks = row.end_epoch - row.from_epoch
        if row.outcome in (Status.INFEASIBLE, Status.FAILED, Status.CANCELLED):
            ticks += 1  # it ended within an epoch
        return row.clock + max(ticks, 1), row.number

    def _earliest_end(self, row: AssignmentRow) -> tuple[int, int]:
        """Before this tick an assignment in training cannot end, since it has trained these epochs."""
        return row.clock + max(len(self._trials[row.trial].values) - row.from_epoch, 1), row.number

    def _settle(self, row: AssignmentRow) -> None:
        assert row.outcome is not None
        del self._open[row.trial]
        self._trials[row.trial].settled = row.end_epoch
        self._show(row.trial, status=row.outcome)

    def _show(self, trial: int, status: Status, until: int | None = None, reason: str | None = None) -> None:
        known = self._trials[trial]
        known.record = replace(
            known.record,
            status=status,
            **self._curves(known, known.settled),
            until_epoch=known.record.until_epoch if until is None else until,
            reason=known.record.reason if reason is None else reason,
        )
        self._visible[trial] = _as_decided_by(known.record)

    def _curves(self, known: _Known, epochs: int) -> dict[str, Any]:
        """What decisions see of a trial's first epochs."""
        measured = known.measured[:epochs]
        return {
            "values": tuple(known.values[:epochs]),
            "also": tuple(map(self.goals.also_of, measured)),
            "excess": tuple(map(self.goals.excess_of, measured)),
        }

    def history(self) -> History:
        """What decisions may see."""
        return History(tuple(self._visible))

    def latest(self, trial: int) -> TrialRecord:
        """A trial with everything reported so far, for people to see."""
        known = self._trials[trial]
        row = self._open.get(trial)
        status = known.record.status if row is None or row.outcome is None else row.outcome
        return replace(known.record, **self._curves(known, len(known.values)), status=status)

    # -- what was decided ------------------------------------------------------------------------------------

    def decide(self, assignments: Sequence[Assignment], sources: Mapping[int, str] | None = None) -> Decision:
        """Number assignments and take them into the books."""
        rows: list[AssignmentRow] = []
        new: list[NewTrial] = []
        stopped: dict[int, str] = {}
        for assignment in assignments:
            if isinstance(assignment, Stop):
                stopped[assignment.trial] = assignment.reason
                self._show(assignment.trial, status=Status.CUT, reason=assignment.reason)
                continue
            if isinstance(assignment, Start):
                number = len(self._trials)
                record = self._new(number, assignment)
                source = (sources or {}).get(number, "search")
                new.append(NewTrial(number, record.config, source, record.parent, record.born))
                self._add(record)
            else:
                number = assignment.trial
            rows.append(self._open_row(number, assignment))
        return Decision(rows, new, stopped)

    def _new(self, number: int, start: Start) -> TrialRecord:
        if start.parent is None:
            return TrialRecord(number, start.config, Status.WAITING)
        assert start.parent not in self._open, "a parent stands where its child begins"
        born = self._trials[start.parent].settled
        return TrialRecord(number, start.config, Status.WAITING, parent=start.parent, born=born)

    def _add(self, record: TrialRecord) -> None:
        known = _Known(record, [], settled=record.born)
        if record.parent is not None:
            parent = self._trials[record.parent]
            known.values, known.measured = parent.values[: record.born], parent.measured[: record.born]
            known.record = replace(record, **self._curves(known, record.born))
        self._trials.append(known)
        self._visible.append(_as_decided_by(known.record))

    def _open_row(self, number: int, assignment: Start | Continue) -> AssignmentRow:
        from_epoch = self._trials[number].settled
        row = AssignmentRow(self.decisions, number, from_epoch, assignment.until_epoch, self.clock)
        self.decisions += 1
        self._open[number] = row
        self._show(number, status=Status.TRAINING, until=assignment.until_epoch)
        return row


def _as_decided_by(record: TrialRecord) -> TrialRecord:
    """What decisions see of a trial: of a probe that its number is taken, and nothing to learn from."""
    return TrialRecord(record.number, Config(), Status.CANCELLED, arm=record.arm) if record.arm else record
