"""The block that shows a study at one moment, line by line, in a terminal of any width."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from rheostat.front import front
from rheostat.show.text import (
    CURVE_WIDTH,
    Entry,
    Table,
    cells,
    clean,
    counts,
    curve_range,
    cut,
    differs_from_best,
    duration,
    number,
    scored,
    settings,
)
from rheostat.types import Goals, Snapshot, Status, TrialRecord


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the block; `role` is head, best, titles, hint, or a trial's state."""

    text: str
    role: str


def headline(snapshot: Snapshot, ended: bool = False) -> list[str]:
    """How the study stands, in phrases: the most important first."""
    goal = f"{'minimise' if snapshot.sign > 0 else 'maximise'} {clean(snapshot.metric)}{_goals(snapshot.goals)}"
    statuses = Counter(t.status for t in snapshot.trials)
    resting = len(snapshot.trials) - statuses[Status.TRAINING] - statuses[Status.WAITING]
    wanted = "" if snapshot.trials_wanted is None else f"/{snapshot.trials_wanted}"
    left = "" if ended or snapshot.seconds_left is None else f"left ~{duration(snapshot.seconds_left)}"
    training = "" if ended else f"training {len(snapshot.training)}"
    phrases = (
        f"{clean(snapshot.study)}  {goal}",
        f"{resting}{wanted} trials",
        f"front {len(front(snapshot.trials))}" if snapshot.goals.also else "",
        counts(statuses),
        f"epochs {snapshot.epochs}",
        f"elapsed {duration(snapshot.seconds)}",
        left,
        training,
        "" if snapshot.state == "running" else snapshot.state,
    )
    return [phrase for phrase in phrases if phrase]


def _goals(goals: Goals) -> str:
    """What a study is after beside its metric, in words."""
    also = [f"{'minimise' if direction == 'minimize' else 'maximise'} {name}" for name, direction in goals.also]
    return clean("".join([*(f", {words}" for words in also), *(f", {limit}" for limit in goals.limits)]))


def best_line(best: TrialRecord | None, sign: int) -> str:
    """The best value, its trial and its configuration."""
    if best is None:
        return "best  none yet"
    value = number(sign * best.best)
    return f"best  {value}  trial {best.number}   {clean(settings(best.config))}"


def study_lines(snapshot: Snapshot, width: int, rows: int = 8, ended: bool = False) -> list[Line]:
    """The block that shows a study in `width` columns: trials in training come first, then the best ones."""
    lines = [Line(text, "head") for text in _flow(headline(snapshot, ended), width)]
    entries = scored(snapshot.trials)
    best = min(entries)[2] if entries else None
    lines.append(Line(cut(best_line(best, snapshot.sign), width), "best"))
    shown = _chosen(snapshot, entries, rows, ended)
    if shown:
        titles, *texts = _trial_lines(snapshot, best, shown, width)
        lines.append(Line(titles, "titles"))
        lines += [Line(text, str(state)) for text, (_, state) in zip(texts, shown, strict=True)]
    if not ended:
        lines.append(Line(cut(_hint(snapshot, width), width), "hint"))
    return lines


def _chosen(snapshot: Snapshot, entries: Sequence[Entry], rows: int, ended: bool) -> list[tuple[TrialRecord, Status]]:
    """Up to `rows` trials with their states. Where many train, the best keep three rows."""
    training = [] if ended else [t for t in snapshot.trials if t.number in snapshot.training]
    others = [entry for entry in entries if ended or entry[1] not in snapshot.training]
    training = training[: max(rows - min(3, len(others)), 1)]
    best = [trial for _, _, trial in heapq.nsmallest(rows - len(training), others)]
    assigned = Status.PAUSED if ended else Status.WAITING  # it has epochs to train, and does not train now
    resting = [(t, assigned if t.status is Status.TRAINING else t.status) for t in best]
    return [*((t, Status.TRAINING) for t in training), *resting]


def _trial_lines(
    snapshot: Snapshot, best: TrialRecord | None, shown: Sequence[tuple[TrialRecord, Status]], width: int
) -> list[str]:
    """The table of the block. Narrow terminals do without the states' words, then without the curves."""
    scale = curve_range(snapshot.trials, snapshot.sign)
    metric = snapshot.metric if width >= 72 else cut(snapshot.metric, 9)
    titles = ["trial", "state", "epoch", metric, "curve", "differs from best"]
    rows: list[list[str]] = []
    for trial, state in shown:
        row = cells(trial, snapshot.sign, snapshot.max_epochs, scale, state)
        rows.append([*row, differs_from_best(trial, best)])
    if width < 72:
        titles[1], rows = "", [[row[0], row[1][0], *row[2:]] for row in rows]
    if width < 52:
        titles, rows = titles[:4] + titles[5:], [row[:4] + row[5:] for row in rows]
    least = {"state": 11, "epoch": 5, metric: 7, "curve": CURVE_WIDTH}  # keep the block steady
    return Table(titles, rows, frozenset({"trial", "epoch", metric}), least).lines(width)


def _hint(snapshot: Snapshot, width: int) -> str:
    if snapshot.state == "stopping":
        return "Finishing the trials in training. Ctrl-C: stop now."
    if snapshot.state == "paused":
        return f"Paused. Go on: rheostat resume {clean(snapshot.study)}"
    full = "Ctrl-C once: finish running trials; twice: stop now. Nothing is lost either way."
    return full if cell_len(full) <= width else "Ctrl-C once: finish; twice: stop now."


def _flow(phrases: Sequence[str], width: int) -> list[str]:
    """Phrases side by side on as few lines as hold them whole."""
    lines: list[str] = []
    for phrase in phrases:
        if lines and cell_len(lines[-1]) + 3 + cell_len(phrase) <= width:
            lines[-1] += f"   {phrase}"
        else:
            lines.append(phrase)
    return [cut(line, width) for line in lines]
