"""From what a trial reported to observations, and labelled runs in files (docs/pathologies.md has the format)."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rheostat.diagnose.base import Curve, Observations
from rheostat.errors import DataError
from rheostat.types import Config, Report, Status

FACTS = (
    "classes",
    "prior_loss",
    "examples",
    "validation_examples",
    "steps_per_epoch",
    "input_scale",
    "input_spread",
    "input_offset",
)
DIGITS = 5  # of the numbers in a file


def from_reports(
    reports: Sequence[Report],
    config: Mapping[str, Any],
    status: Status = Status.TRAINING,
    reason: str = "",
    max_epochs: int = 0,
) -> Observations:
    """What the reports of one trial say about it, in any order; of an epoch that was reported twice, the last."""
    ends = [r for r in reports if r.epoch_end and r.epoch >= 1]
    epochs = max((r.epoch for r in ends), default=0)
    curves: dict[str, Curve] = {}
    for report in ends:
        for name, value in report.metrics.items():
            if name not in curves:
                curves[name] = np.full(epochs, np.nan)
            curves[name][report.epoch - 1] = value
    layers: dict[str, dict[str, Curve]] = {}
    for name in [name for name in curves if "/" in name]:
        measure, _, layer = name.partition("/")
        layers.setdefault(measure, {})[layer] = curves.pop(name)
    first: dict[int, float] = {}
    facts: dict[str, float] = {}
    for report in reports:
        if not report.epoch_end and "train_loss" in report.metrics:
            first[report.step] = report.metrics["train_loss"]
            facts |= {name: report.metrics[name] for name in FACTS if name in report.metrics}
    return Observations(curves, first, layers, Config(config), status, reason, max_epochs, facts)


@dataclass(frozen=True)
class LabelledRun:
    """A run of which the cause is known.

    `group` is equal for runs of one base configuration. `probe` holds the effects of its counterfactuals
    (`probe/counterfactual.py`), empty where none were run.
    """

    id: str
    label: str
    observations: Observations
    dataset: str = ""
    architecture: str = ""
    optimizer: str = ""
    group: str = ""
    probe: Mapping[str, float] = field(default_factory=dict)


def write_runs(path: Path, runs: Iterable[LabelledRun]) -> None:
    """A line of JSON per run, compressed where the name ends in .gz."""
    with _opened(path, "wt") as file:
        for run in runs:
            file.write(json.dumps(_described(run), separators=(",", ":")) + "\n")


def read_runs(path: Path) -> Iterator[LabelledRun]:
    """The runs of a file. Raises DataError, with the line, for what is not one."""
    try:
        with _opened(path, "rt") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _run(json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError) as cause:
                    raise DataError(
                        f"{path}, line {number}: not a labelled run ({type(cause).__name__}: {cause}). A line is an "
                        "object with at least id, label and curves; docs/pathologies.md has the format."
                    ) from None
    except (OSError, UnicodeDecodeError, EOFError) as cause:
        raise DataError(f"{path} cannot be read: {cause}. Give a .jsonl or .jsonl.gz file of labelled runs.") from None


def _opened(path: Path, mode: str) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8")
    return path.open(mode, encoding="utf-8")


def _described(run: LabelledRun) -> dict[str, Any]:
    seen = run.observations
    return {
        "id": run.id,
        "label": run.label,
        "dataset": run.dataset,
        "architecture": run.architecture,
        "optimizer": run.optimizer,
        "group": run.group,
        "config": dict(seen.config),
        "status": str(seen.status),
        "reason": seen.reason,
        "max_epochs": seen.max_epochs,
        "facts": _rounded(seen.facts),
        "first": {str(step): _plain(loss) for step, loss in seen.first.items()},
        "curves": {name: [_plain(v) for v in curve] for name, curve in seen.curves.items()},
        "layers": {
            measure: {name: [_plain(v) for v in curve] for name, curve in by.items()}
            for measure, by in seen.layers.items()
        },
        "probe": _rounded(run.probe),
    }


def _run(line: dict[str, Any]) -> LabelledRun:
    observations = Observations(
        {name: _curve(values) for name, values in line["curves"].items()},
        {int(step): _number(loss) for step, loss in line.get("first", {}).items()},
        {m: {n: _curve(values) for n, values in by.items()} for m, by in line.get("layers", {}).items()},
        Config(line.get("config", {})),
        Status(line.get("status", "done")),
        line.get("reason", ""),
        int(line.get("max_epochs", 0)),
        {name: _number(value) for name, value in line.get("facts", {}).items()},
    )
    if len({len(curve) for curve in observations.curves.values()}) > 1:
        raise ValueError("curves of different lengths")
    return LabelledRun(
        str(line["id"]),
        str(line["label"]),
        observations,
        line.get("dataset", ""),
        line.get("architecture", ""),
        line.get("optimizer", ""),
        line.get("group", ""),
        {name: _number(value) for name, value in line.get("probe", {}).items()},
    )


def _rounded(values: Mapping[str, float]) -> dict[str, float | str | None]:
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: float) -> float | str | None:
    """JSON knows no NaN and no infinities: null, and the words "inf" and "-inf"."""
    if math.isnan(value):
        return None
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _curve(values: Sequence[Any]) -> Curve:
    return np.array([_number(value) for value in values], dtype=np.float64)
