"""How well diagnosers name the causes of labelled runs.

A diagnoser gives a number to each cause that it thinks a run may have; the highest is its verdict. Where the numbers
sum to 1 they are probabilities, and are judged as such: calibration, and what abstaining would bring. What it does not
spread over causes it gives to "", which is no verdict. A diagnoser that gives nothing for a run does not judge it.

Intervals (95 %) are percentiles of a bootstrap over cells, which are pairs of a data set and an architecture: runs of
one cell are alike, so resampling runs would make intervals too narrow. With one cell there are none (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.diagnose.base import HEALTHY
from rheostat.diagnose.diagnosis import CONFIDENT
from rheostat.diagnose.observations import LabelledRun

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Diagnoser = Callable[[LabelledRun], Mapping[str, float]]

REST = ""  # stands for all causes that are not named
LR_SIDES = {"lr_too_low": "low", "lr_too_high": "high", "diverged": "high"}  # healthy is "ok"
BINS = 15  # of the calibration error (Guo et al. 2017, *On calibration of modern neural networks*, section 2)
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RESAMPLES = 1000
MOMENTS = 10  # at which a run is judged on its way, beside its beginning


@dataclass(frozen=True)
class Figure:
    """A share, or a number, of `runs` runs, with its interval; NaN where there is nothing to know it from."""

    value: float
    low: float = math.nan
    high: float = math.nan
    runs: int = 0


@dataclass(frozen=True)
class ForCause:
    """How one cause is recognised; `runs` have it, of which `recall` are called so."""

    runs: int
    recall: Figure
    precision: Figure


@dataclass(frozen=True)
class AtCoverage:
    """How good the verdicts are that are kept when only this share, the most confident, is."""

    coverage: float
    accuracy: float
    balanced_accuracy: float


@dataclass(frozen=True)
class Group:
    """The scores of some of the runs: of a cell, a data set or an architecture."""

    runs: int
    accuracy: float
    balanced_accuracy: float
    false_alarms: float
    lr_balanced_accuracy: float


@dataclass(frozen=True)
class Score:
    """How one diagnoser did.

    Balanced accuracy is the mean recall over causes that are there. `top_two`: the cause is among the two highest.
    `lr_balanced_accuracy` is over low, ok and high, where healthy runs are ok and diverged ones high; a verdict that
    says nothing of the rate is ok. `false_alarms` is the share of healthy runs that are called anything else, and
    `sure_false_alarms` that with at least the stated confidence. `coverage` is the share of verdicts with
    that confidence, `sure_accuracy` and `sure_balanced_accuracy` how good those are. `calibration_error` is NaN, and
    `risk_coverage` empty, without probabilities. `confusion[cause][verdict]` counts runs. `detection` is the median
    share of the planned epochs after which the right verdict of a sick run was given and kept (infinite: never, for
    half of them), `detected` the share of sick runs for which it was, by their end.
    """

    name: str
    runs: int
    accuracy: Figure
    balanced_accuracy: Figure
    top_two: Figure
    lr_balanced_accuracy: Figure
    false_alarms: Figure
    calibration_error: Figure
    coverage: Figure
    sure_accuracy: Figure
    sure_balanced_accuracy: Figure
    sure_false_alarms: Figure
    risk_coverage: tuple[AtCoverage, ...]
    causes: Mapping[str, ForCause]
    confusion: Mapping[str, Mapping[str, int]]
    groups: Mapping[str, Mapping[str, Group]]  # by "cell", "dataset" and "architecture", then by name
    detection: Figure | None = None
    detected: Figure | None = None
    detection_by_cause: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Report:
    """All diagnosers on the same runs."""

    runs: int
    labels: Mapping[str, int]
    cells: tuple[str, ...]
    confidence: float
    scores: tuple[Score, ...]

    def describe(self) -> dict[str, Any]:
        """As JSON-like values; docs/pathologies.md says what they mean."""
        return asdict(self)


def score(
    runs: Sequence[LabelledRun],
    diagnosers: Mapping[str, Diagnoser],
    *,
    confidence: float = CONFIDENT,
    moments: int = MOMENTS,
    resamples: int = RESAMPLES,
) -> Report:
    """Judge diagnosers by the labels. With `moments` 0, time to detection is not measured, which is most of the work.

    A diagnoser must bear runs of which no epoch is known: that is how a run looks at its beginning. On the way, it
    gets runs without the effects of counterfactuals.
    """
    labels: dict[str, int] = {}
    for run in runs:
        labels[run.label] = labels.get(run.label, 0) + 1
    labels = dict(sorted(labels.items(), key=lambda item: (item[0] != HEALTHY, -item[1], item[0])))
    cells = tuple(sorted({_cell(run) for run in runs}))
    scores = []
    for name, diagnose in diagnosers.items():
        verdicts = [(run, found) for run in runs if (found := diagnose(run))]
        if verdicts:
            judged = _Judged.of(name, verdicts, labels)
            found = judged.score(confidence, resamples)
            scores.append(_with_detection(found, judged, diagnose, moments, resamples) if moments else found)
    return Report(len(runs), labels, cells, confidence, tuple(scores))


def as_scores(ranked: Sequence[str]) -> dict[str, float]:
    """Numbers for a ranked list of causes, the first above all others together; healthy where it is empty.

    They are no probabilities, and sum to less than 1 or, for one cause, to 1/2.
    """
    return {cause: 0.5 ** (place + 1) for place, cause in enumerate(ranked or [HEALTHY])}


def _cell(run: LabelledRun) -> str:
    return f"{run.dataset}/{run.architecture}"


@dataclass(frozen=True)
class _Judged:
    """N runs and what one diagnoser says of them, as indices into `names`; the first `known` names are labels."""

    name: str
    runs: Sequence[LabelledRun]
    names: list[str]
    known: int
    label: Indices  # (N,)
    verdict: Indices  # (N,)
    numbers: Array  # (N, names)
    rest: Array  # (N,): what was given to no cause
    cell: Indices  # (N,)

    @classmethod
    def of(
        cls, name: str, verdicts: Sequence[tuple[LabelledRun, Mapping[str, float]]], labels: Mapping[str, int]
    ) -> _Judged:
        names = list(labels)
        names += sorted({cause for _, found in verdicts for cause in found} - labels.keys() - {REST})
        place = {cause: i for i, cause in enumerate(names)}
        numbers = np.zeros((len(verdicts), len(names)))
        for row, (_, found) in zip(numbers, verdicts, strict=True):
            for cause, number in found.items():
                if cause != REST:
                    row[place[cause]] = number
        rest = np.array([found.get(REST, 0.0) for _, found in verdicts])
        runs = [run for run, _ in verdicts]
        cells = sorted({_cell(run) for run in runs})
        cell = np.array([cells.index(_cell(run)) for run in runs])
        label = np.array([place[run.label] for run in runs])
        return cls(name, runs, names, len(labels), label, numbers.argmax(1), numbers, rest, cell)

    @property
    def right(self) -> NDArray[np.bool_]:
        return self.verdict == self.label

    @property
    def confidence(self) -> Array:
        """The number of each verdict. (N,)"""
        return self.numbers.max(1)

    @property
    def probabilities(self) -> bool:
        return bool(np.allclose(self.numbers.sum(1) + self.rest, 1, atol=1e-3))

    @property
    def healthy(self) -> NDArray[np.bool_]:
        return self.label == (self.names.index(HEALTHY) if HEALTHY in self.names else -1)

    def sides(self) -> tuple[Indices, Indices, NDArray[np.bool_]]:
        """True and said side of the rate (0 ok, 1 low, 2 high), and which runs are asked. Each (N,)."""
        order = ["ok", "low", "high"]
        side = np.array([order.index(LR_SIDES.get(name, "ok")) for name in self.names])
        sums = np.stack([self.numbers[:, side == i].sum(1) for i in range(3)], axis=1)
        asked = self.healthy | (side[self.label] > 0)
        return side[self.label], sums.argmax(1), asked

    def score(self, confidence: float, resamples: int) -> Score:
        weights = _weights(self.cell, resamples)
        true_side, said_side, asked = self.sides()
        sure = self.confidence >= confidence
        second = np.argsort(-self.numbers, axis=1, kind="stable")[:, :2]
        in_two = ((second == self.label[:, None]) & (np.take_along_axis(self.numbers, second, 1) > 0)).any(1)

        def balanced(hit: Any, classes: Indices, among: Any = True) -> Figure:
            kept = np.broadcast_to(among, self.label.shape)
            hits, totals = self._by_class(hit & kept, classes), self._by_class(kept, classes)
            return _figure(weights, lambda w: _mean_share(w @ hits, w @ totals), int(kept.sum()))

        def share(hit: Any, among: Any = True) -> Figure:
            return balanced(hit, np.zeros_like(self.label), among)

        alarm = self.healthy & (self.verdict != self.label)
        given = self.probabilities
        return Score(
            self.name,
            len(self.runs),
            accuracy=share(self.right),
            balanced_accuracy=balanced(self.right, self.label),
            top_two=share(in_two),
            lr_balanced_accuracy=balanced(true_side == said_side, true_side, asked),
            false_alarms=share(alarm, self.healthy),
            calibration_error=self._calibration_error(weights) if given else Figure(math.nan),
            coverage=share(sure) if given else Figure(math.nan),
            sure_accuracy=share(self.right, sure) if given else Figure(math.nan),
            sure_balanced_accuracy=balanced(self.right, self.label, sure) if given else Figure(math.nan),
            sure_false_alarms=share(alarm & sure, self.healthy) if given else Figure(math.nan),
            risk_coverage=self._risk_coverage() if given else (),
            causes={
                name: ForCause(
                    int((self.label == i).sum()),
                    share(self.right, self.label == i),
                    share(self.right, self.verdict == i),
                )
                for i, name in enumerate(self.names)
                if (self.label == i).any() or (self.verdict == i).any()
            },
            confusion=self._confusion(),
            groups=self._groups(),
        )

    def _by_class(self, counted: Any, classes: Indices) -> Array:
        """How many runs count, by cell and class. (cells, classes)"""
        table = np.zeros((self.cell.max() + 1, classes.max() + 1))
        np.add.at(table, (self.cell, classes), np.asarray(counted, float))
        return table

    def _calibration_error(self, weights: Array) -> Figure:
        """Of the verdicts' probabilities, in bins of equal width: Guo et al. 2017, equation 3."""
        place = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        gap = self._by_class(self.confidence - self.right, place)
        count = self._by_class(np.ones_like(self.confidence), place).sum(1)
        return _figure(weights, lambda w: np.abs(w @ gap).sum(1) / (w @ count), len(self.runs))

    def _risk_coverage(self) -> tuple[AtCoverage, ...]:
        order = np.argsort(-self.confidence, kind="stable")
        found = []
        for coverage in COVERAGES:
            kept = order[: max(round(coverage * len(order)), 1)]
            found.append(AtCoverage(coverage, float(self.right[kept].mean()), _balanced(self.right, self.label, kept)))
        return tuple(found)

    def _confusion(self) -> dict[str, dict[str, int]]:
        table = np.zeros((self.known, len(self.names)), int)
        np.add.at(table, (self.label, self.verdict), 1)
        return {
            self.names[i]: {self.names[j]: int(row[j]) for j in np.argsort(-row, kind="stable") if row[j]}
            for i, row in enumerate(table)
            if row.any()
        }

    def _groups(self) -> dict[str, dict[str, Group]]:
        by: dict[str, Callable[[LabelledRun], str]] = {
            "cell": _cell,
            "dataset": lambda run: run.dataset,
            "architecture": lambda run: run.architecture,
        }
        found: dict[str, dict[str, Group]] = {}
        for kind, name_of in by.items():
            names = np.array([name_of(run) for run in self.runs])
            found[kind] = {str(name): self._group(np.flatnonzero(names == name)) for name in np.unique(names)}
        return found

    def _group(self, kept: Indices) -> Group:
        healthy = kept[self.healthy[kept]]
        true_side, said_side, asked = self.sides()
        return Group(
            len(kept),
            float(self.right[kept].mean()),
            _balanced(self.right, self.label, kept),
            float((~self.right[healthy]).mean()) if len(healthy) else math.nan,
            _balanced(true_side == said_side, true_side, kept[asked[kept]]),
        )


def _with_detection(found: Score, judged: _Judged, diagnose: Diagnoser, moments: int, resamples: int) -> Score:
    """The score with the time to detection, of sick runs."""
    sick = np.flatnonzero(~judged.healthy)
    if not len(sick):
        return found
    right = judged.right
    when = np.array([_detected(judged.runs[i], diagnose, moments) if right[i] else math.inf for i in sick])
    cell = judged.cell[sick]
    weights = _weights(cell, resamples)
    order = np.argsort(when)

    def median(w: Array) -> Array:
        sums = w[:, cell[order]].cumsum(1)
        return np.asarray(when[order][(sums < sums[:, -1:] / 2).sum(1)], dtype=float)

    seen = np.isfinite(when).astype(float)
    by_cause = {judged.names[i]: float(np.median(when[judged.label[sick] == i])) for i in np.unique(judged.label[sick])}
    return replace(
        found,
        detection=_figure(weights, median, len(sick)),
        detected=_figure(weights, lambda w: (w[:, cell] * seen).sum(1) / w[:, cell].sum(1), len(sick)),
        detection_by_cause=by_cause,
    )


def _detected(run: LabelledRun, diagnose: Diagnoser, moments: int) -> float:
    """The share of the planned epochs after which the right verdict was given, and at every later moment too.

    The verdict on the whole run is known to be right.
    """
    seen = run.observations
    planned = max(seen.max_epochs, seen.epochs, 1)
    epochs = sorted({math.ceil(i * seen.epochs / moments) for i in range(moments)} - {seen.epochs}, reverse=True)
    earliest = seen.epochs
    for epoch in epochs:
        verdict = diagnose(replace(run, observations=seen.until(epoch), probe={}))
        if max(verdict.keys() - {REST}, key=lambda cause: verdict[cause], default="") != run.label:
            break
        earliest = epoch
    return earliest / planned


def _weights(cell: Indices, resamples: int) -> Array:
    """How often each cell counts: once, then as drawn with replacement. (1 + resamples, cells)"""
    cells = int(cell.max()) + 1
    present = np.unique(cell)
    drawn = np.zeros((resamples if len(present) > 1 else 0, cells))
    drawn[:, present] = np.random.default_rng(0).multinomial(
        len(present), [1 / len(present)] * len(present), len(drawn)
    )
    once = np.zeros((1, cells))
    once[:, present] = 1
    return np.vstack([once, drawn])


def _figure(weights: Array, statistic: Callable[[Array], Array], runs: int) -> Figure:
    values = statistic(weights)
    drawn = values[1:][~np.isnan(values[1:])]
    if not runs or not len(drawn):
        return Figure(float(values[0]) if runs else math.nan, runs=runs)
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Figure(float(values[0]), float(low), float(high), runs)


def _mean_share(hits: Array, totals: Array) -> Array:
    """The mean over classes with runs of the share that was hit; NaN where no class has any. (B, K) -> (B,)"""
    there = totals > 0
    shares = np.where(there, hits / np.where(there, totals, 1), 0).sum(1)
    return np.where(there.any(1), shares / np.maximum(there.sum(1), 1), math.nan)


def _balanced(right: NDArray[np.bool_], classes: Indices, kept: Indices) -> float:
    shares = [float(right[kept][classes[kept] == i].mean()) for i in np.unique(classes[kept])]
    return sum(shares) / len(shares) if shares else math.nan
