"""Scores any file of labelled runs: our diagnosis, and published rules on the same observations.

    python -m benchmarks.pathologies --runs FILE.jsonl.gz --json OUT.json

docs/pathologies.md has the format of the file and says what each number means. The classifier that is shipped was
fitted on the runs of this repository: on those, its numbers here are not those of unseen runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.pathologies.diagnosers import ours, published
from benchmarks.pathologies.score import MOMENTS, Diagnoser, Figure, Report, score
from rheostat.diagnose.diagnosis import CONFIDENT
from rheostat.diagnose.observations import read_runs
from rheostat.errors import RheostatError

COLUMNS = (
    ("balanced", "balanced_accuracy"),
    ("accuracy", "accuracy"),
    ("top two", "top_two"),
    ("lr", "lr_balanced_accuracy"),
    ("false alarms", "false_alarms"),
    ("calibration", "calibration_error"),
    ("sure", "coverage"),
    ("balanced, sure", "sure_balanced_accuracy"),
    ("false, sure", "sure_false_alarms"),
    ("detected at", "detection"),
)


def tables(report: Report) -> list[Table]:
    """All diagnosers side by side; then of the first, its causes and its cells."""
    title = f"{report.runs} runs, {len(report.labels)} causes, {len(report.cells)} cells; 95 % intervals over cells"
    every = Table(title=title)
    every.add_column("")
    for heading, _ in COLUMNS:
        every.add_column(heading, justify="right")
    for found in report.scores:
        some = f" ({found.runs})" if found.runs < report.runs else ""
        every.add_row(found.name + some, *(shown(getattr(found, field)) for _, field in COLUMNS))
    if not report.scores:
        return [every]
    first = report.scores[0]
    causes = Table("cause", "runs", "recall", "precision", "called instead", title=first.name)
    for name, of in first.causes.items():
        wrong = {verdict: n for verdict, n in first.confusion.get(name, {}).items() if verdict != name}
        others = ", ".join(f"{verdict} {n}" for verdict, n in list(wrong.items())[:3])
        causes.add_row(name, str(of.runs), shown(of.recall), shown(of.precision), others)
    cells = Table("", "runs", "balanced", "accuracy", "lr", "false alarms", title=f"{first.name}, by cell")
    for kind in ("dataset", "architecture", "cell"):
        for name, group in first.groups[kind].items():
            values = (group.balanced_accuracy, group.accuracy, group.lr_balanced_accuracy, group.false_alarms)
            cells.add_row(name, str(group.runs), *map(_share, values))
        cells.add_section()
    return [every, causes, cells]


def shown(figure: Figure | None) -> str:
    """A share in percent with its interval."""
    if figure is None or math.isnan(figure.value):
        return "-"
    if math.isnan(figure.low):
        return _share(figure.value)
    return f"{_share(figure.value)} ({_share(figure.low)}-{_share(figure.high)})"


def _share(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else f"{100 * value:.1f}"


def plain(value: Any) -> Any:
    """As JSON knows it: NaN and infinity become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def diagnosers(only: str) -> dict[str, Diagnoser]:
    every = {**ours(), **published()}
    return {name: diagnose for name, diagnose in every.items() if only.lower() in name.lower()}


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks.pathologies", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="FILE", help=".jsonl or .jsonl.gz")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where all numbers go")
    parser.add_argument("--confidence", type=float, default=CONFIDENT, help="below it a verdict is unsure")
    parser.add_argument("--moments", type=int, default=MOMENTS, help="for time to detection; 0: do without, faster")
    parser.add_argument("--only", default="", metavar="TEXT", help="diagnosers whose names contain it")
    given = parser.parse_args()
    try:
        runs = list(read_runs(given.runs))
    except RheostatError as error:
        parser.error(str(error))
    report = score(runs, diagnosers(given.only), confidence=given.confidence, moments=given.moments)
    console = Console()
    for table in tables(report):
        console.print(table)
    if given.json:
        given.json.write_text(json.dumps(plain(dataclasses.asdict(report)), indent=1) + "\n")


if __name__ == "__main__":
    main()
