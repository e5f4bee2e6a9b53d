"""Numbers, configurations, curves and tables as text. Pure functions, but for `show`, which prints.

Text is made with the signs of `MARKS` and `BLOCKS`; where it is written, `encodable` swaps them for signs of
ASCII, as wide, if the stream has no others.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile
from types import MappingProxyType
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size

from rheostat.front import front
from rheostat.types import NO_GOALS, Goals, Report, Scalar, Status, TrialRecord

# Stopped against other trials (cut) and because it no longer improved (converged) are different things.
MARKS: Mapping[Status, str] = MappingProxyType(
    {
        Status.DONE: "✓",
        Status.CUT: "✂",
        Status.CONVERGED: "▬",
        Status.PAUSED: "⏸",
        Status.INFEASIBLE: "∞",
        Status.FAILED: "✗",
        Status.CANCELLED: "⊘",
        Status.TRAINING: "▸",
        Status.WAITING: "·",
    }
)
BLOCKS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"
CURVE_WIDTH = 8
ALWAYS_COUNTED = (Status.DONE, Status.CUT, Status.FAILED)
_ASCII = str.maketrans("✓✂▬⏸∞✗⊘▸·▁▂▃▄▅▆▇█×…", "+/=|^x->._.:-=+*#!~")


# -- values --------------------------------------------------------------------------------------------------


def number(value: Scalar) -> str:
    """Four significant digits; whole numbers and texts as they are.

    >>> [number(v) for v in (0.0222, 0.000012345, 20000, 12345.6, float("inf"), "adam", None)]
    ['0.0222', '1.234e-05', '20000', '12346', 'inf', 'adam', 'None']
    """
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (4, 130, 3780, 190000)]
    ['4s', '2m 10s', '1h 03m', '2d 04h']
    """
    left = max(round(seconds), 0)
    for unit, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if left >= size:
            return f"{left // size}{unit} {left % size // part_size:02}{part}"
    return f"{left}s"


def settings(config: Mapping[str, Scalar]) -> str:
    """
    >>> settings({"lr": 0.00911234, "units": 75})
    'lr=0.009112  units=75'
    """
    return "  ".join(f"{name}={number(value)}" for name, value in config.items())


def differences(config: Mapping[str, Scalar], best: Mapping[str, Scalar]) -> str:
    """The values in which a configuration differs from the best one; "best" where it does not.

    >>> differences({"lr": 0.01, "units": 75}, {"lr": 0.01, "units": 89})
    'units=75'
    """
    other = {n: v for n, v in config.items() if n not in best or best[n] != v}
    return settings(other) or "  ".join(f"no {name}" for name in best if name not in config) or "best"


def part(description: Mapping[str, Any]) -> str:
    """One hyperparameter, as `Space.describe` gives it, in words.

    >>> part({"type": "float", "low": 1e-5, "high": 0.1, "log": True, "prior": {"value": 1e-3, "sure": 0.5}})
    '1e-05 to 0.1 (log), likely 0.001'
    """
    if description["type"] == "fixed":
        return f"always {number(description['value'])}"
    if description["type"] == "choice":
        words = f"one of {', '.join(map(number, description['values']))}"
    else:
        whole = "whole " if description["type"] == "int" else ""
        words = f"{whole}{description['low']:g} to {description['high']:g}"
        words += " (log)" if description.get("log") else ""
        words += f" by {description['step']:g}" if "step" in description else ""
    if "prior" in description:
        words += f", likely {number(description['prior']['value'])}"
    conditions = [f"{p} is {' or '.join(map(number, v))}" for p, v in description.get("when", {}).items()]
    return words + (f", when {' and '.join(conditions)}" if conditions else "")


def sparkline(values: Sequence[float], low: float, high: float, width: int = CURVE_WIDTH) -> str:
    """A curve in blocks, `low` to `high`; longer ones are averaged down to `width`; × is not finite.

    >>> sparkline([1.0, 0.5, float("nan"), 0.0], 0.0, 1.0)
    '█▅×▁'
    """
    columns = min(len(values), width)
    signs = []
    for c in range(columns):
        piece = values[c * len(values) // columns : (c + 1) * len(values) // columns]
        finite = [v for v in piece if math.isfinite(v)]
        level = (sum(finite) / len(finite) - low) / (high - low) if finite and high > low else 0.0
        signs.append(BLOCKS[min(max(round(level * 7), 0), 7)] if finite else NOT_FINITE)
    return "".join(signs)


def curve_range(trials: Sequence[TrialRecord], sign: int) -> tuple[float, float]:
    """What sparklines of a study are scaled to, in the user's values.

    They reach from the best value to where nine trials of ten began, so a diverged one does not flatten all.
    """
    bests = [best for t in trials if math.isfinite(best := t.best)]
    firsts = sorted(t.values[0] for t in trials if t.values and math.isfinite(t.values[0]))
    low = min(bests, default=0.0)
    high = max(firsts[len(firsts) * 9 // 10], low) if firsts else low
    return (low, high) if sign > 0 else (-high, -low)


# -- trials --------------------------------------------------------------------------------------------------


Entry = tuple[tuple[float, ...], int, TrialRecord]


def scored(trials: Sequence[TrialRecord]) -> list[Entry]:
    """Objectives, number and trial of those that may be the best, from the best on, were they sorted.

    Who failed, diverged, breaks a limit or is a probe may not be.
    """
    out = (Status.INFEASIBLE, Status.FAILED)
    able = (t for t in trials if t.status not in out and t.best < math.inf and t.keeps_limits and not t.arm)
    return [(t.objectives, t.number, t) for t in able]


def best_trial(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial with the best value; of equals the one that is better in further objectives, then the earlier."""
    return min(scored(trials), default=((), 0, None))[2]


def counts(statuses: Mapping[Status, int]) -> str:
    """How many trials ended in which way, or rest.

    >>> counts({Status.DONE: 16, Status.CUT: 6, Status.TRAINING: 2, Status.PAUSED: 3})
    '✓16 ✂6 ⏸3 ✗0'
    """
    resting = [s for s in MARKS if s.ended or s is Status.PAUSED]
    return " ".join(f"{MARKS[s]}{statuses.get(s, 0)}" for s in resting if statuses.get(s) or s in ALWAYS_COUNTED)


def differs_from_best(trial: TrialRecord, best: TrialRecord | None) -> str:
    """`differences`, where the best trial is told from others with its configuration."""
    if best is None:
        return settings(trial.config)
    words = differences(trial.config, best.config)
    return "same as best" if words == "best" and trial.number != best.number else words


def cells(
    trial: TrialRecord,
    sign: int,
    max_epochs: int | None,
    scale: tuple[float, float],
    state: Status | None = None,
) -> tuple[str, str, str, str, str]:
    """Number, state, epoch, best value and curve of a trial; a copy's curve begins with what it measured itself."""
    state = state or trial.status
    values = list(dropwhile(math.isnan, trial.values)) if trial.parent is not None else trial.values
    return (
        str(trial.number),
        f"{MARKS[state]} {state}",
        f"{trial.epochs}/{max_epochs}" if max_epochs else str(trial.epochs),
        number(sign * trial.best) if trial.best < math.inf else "",
        sparkline([sign * v for v in values], *scale),
    )


# -- tables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Aligned text. Cells under titles in `right` are aligned right; `least` holds the smallest widths."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[str] = frozenset()
    least: Mapping[str, int] = field(default_factory=dict)

    def lines(self, width: int | None = None) -> list[str]:
        """The title line and one for each row, cut to `width` columns."""
        rows = [[clean(cell) for cell in row] for row in (self.titles, *self.rows)]
        widths = [
            max(self.least.get(title, 0), *(cell_len(row[i]) for row in rows)) for i, title in enumerate(self.titles)
        ]
        return [cut("  ".join(self._pad(row, widths)).rstrip(), width) for row in rows]

    def _pad(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        blanks = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        return [
            blank + cell if title in self.right else cell + blank
            for title, cell, blank in zip(self.titles, row, blanks, strict=True)
        ]


def trials_table(
    trials: Sequence[TrialRecord],
    metric: str,
    sign: int,
    max_epochs: int | None = None,
    goals: Goals = NO_GOALS,
) -> Table:
    """Every trial in order of number, with its best value in the user's direction, and what it broke."""
    best = best_trial(trials)
    scale = curve_range(trials, sign)
    rows = []
    for t in trials:
        differs = differs_from_best(t, best)
        *shown, curve = cells(t, sign, max_epochs, scale)
        rows.append((*shown, *also_cells(t, goals), curve, "  ".join(filter(None, (differs, why(t, goals))))))
    names = [name for name, _ in goals.also]
    titles = ("trial", "state", "epoch", metric, *names, "curve", "differs from best")
    return Table(titles, rows, frozenset({"trial", "epoch", metric, *names}))


def also_cells(trial: TrialRecord, goals: Goals) -> list[str]:
    """The further objectives of a trial, in the user's direction."""
    signs = [-1 if direction == "maximize" else 1 for _, direction in goals.also]
    values = trial.also[trial.best_epoch - 1] if trial.also and trial.best_epoch else (math.nan,) * len(signs)
    return ["" if math.isnan(value) else number(sign * value) for sign, value in zip(signs, values, strict=True)]


def why(trial: TrialRecord, goals: Goals = NO_GOALS) -> str:
    """Why a trial ended early and which limits it breaks, in brackets; empty where there is nothing to say."""
    reason = "" if trial.status is Status.DONE else trial.reason
    probe = f"probe of trial {trial.parent}: {trial.arm}" if trial.arm else ""
    broken = goals.broken(trial.excess[trial.best_epoch - 1]) if trial.excess and trial.best_epoch else []
    words = "; ".join(filter(None, (probe, reason, *broken)))
    return f"({words})" if words else ""


def front_table(trials: Sequence[TrialRecord], metric: str, sign: int, goals: Goals) -> Table:
    """The trials that no other dominates, from the best value on, with all objectives."""
    best = best_trial(trials)
    on_front = sorted(front(trials), key=lambda t: (t.objectives, t.number))
    rows = [(str(t.number), number(sign * t.best), *also_cells(t, goals), differs_from_best(t, best)) for t in on_front]
    titles = ("trial", metric, *(name for name, _ in goals.also), "differs from best")
    return Table(titles, rows, frozenset(titles[:-1]))


def studies_table(rows: Sequence[Mapping[str, Any]], now: float | None = None) -> Table:
    """Studies as docs/json.md describes them; `now` is in seconds since 1970."""
    now = time.time() if now is None else now
    lines = [
        (
            row["study"],
            "running" if row["running"] else "",
            str(sum(row["trials"].values())),
            counts({Status(name): n for name, n in row["trials"].items()}),
            f"{row['direction']} {row['metric']}",
            "none yet" if row["best"] is None else number(row["best"]),
            f"{duration(now - row['last_activity'])} ago",
        )
        for row in rows
    ]
    titles = ("study", "state", "trials", "ended", "metric", "best", "last activity")
    return Table(titles, lines, frozenset({"trials", "best"}))


def reports_table(reports: Sequence[Report]) -> Table:
    """What one trial measured, a line per report; its metrics stand in the order in which they came."""
    metrics = list(dict.fromkeys(name for report in reports for name in report.metrics))
    rows = [(str(r.epoch), str(r.step), duration(r.seconds), *(_metric(r, name) for name in metrics)) for r in reports]
    titles = ("epoch", "step", "time", *metrics)
    return Table(titles, rows, frozenset(titles))


def _metric(report: Report, name: str) -> str:
    return number(report.metrics[name]) if name in report.metrics else ""


# -- writing -------------------------------------------------------------------------------------------------


def code_to_use(study: str, storage: str | None = None) -> str:
    """Python that loads the best network of a study.

    >>> print(code_to_use("digits"))
    import rheostat
    best = rheostat.load("digits").best
    model = best.load()  # the trained network, in evaluation mode
    """
    where = "" if storage is None else f", storage={json.dumps(storage, ensure_ascii=False)}"
    return (
        "import rheostat\n"
        f"best = rheostat.load({json.dumps(study, ensure_ascii=False)}{where}).best\n"
        "model = best.load()  # the trained network, in evaluation mode"
    )


def cut(text: str, width: int | None) -> str:
    """
    >>> cut("lr=0.0091  units=75", 12)
    'lr=0.0091…'
    """
    if width is None or cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, max(width - 1, 0)).rstrip()}…"


def encodable(text: str, encoding: str | None) -> str:
    """The text with what an encoding lacks replaced, sign by sign; unchanged without an encoding."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def show(content: Table | str, stream: TextIO | None = None) -> None:
    """Print to a stream (standard output): cut to the width of a terminal, whole elsewhere."""
    stream = sys.stdout if stream is None else stream
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    text = content if isinstance(content, str) else "\n".join(content.lines(width))
    print(encodable(text, stream.encoding), file=stream)


def print_json(value: object) -> None:
    """One line of JSON; NaN and infinities, which JSON does not know, become null."""
    print(json.dumps(_finite(value)))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return value


def clean(text: str) -> str:
    """On one line and without control codes: a name or an error message may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
