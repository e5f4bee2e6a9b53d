"""Fits and judges the classifier: python -m benchmarks.pathologies.fit RUNS [--out FILE] [--json FILE]

Judged by cross-fitting: runs of a data set and an architecture get their probabilities from trees that saw neither
that data set nor that architecture, and from a calibration that was fitted on other cells. The forest that is written
is fitted on all of them. Runs are also shown to it as they stood at a part of their epochs, and without what a user's
own loop may not report, so that it bears both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.optimize import minimize
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from benchmarks.pathologies.__main__ import plain, tables
from benchmarks.pathologies.diagnosers import published, said
from benchmarks.pathologies.score import Diagnoser, score
from rheostat.diagnose.classifier import FLOOR, MISSING, Forest
from rheostat.diagnose.diagnosis import diagnose
from rheostat.diagnose.features import features
from rheostat.diagnose.observations import LabelledRun, read_runs
from rheostat.types import Config

LATE = ("too_short", "needs_decay", "overfitting", "decay_too_early")  # not yet there early in a run
PARTS = (0.3, 0.6)  # of the epochs, at which runs are shown too
TREES, SHIPPED_TREES, LEAST_LEAF = 50, 30, 3  # of each kind
Array = NDArray[np.float64]


def views(run: LabelledRun, probed: bool, rng: random.Random) -> list[dict[str, float]]:
    """The run in numbers, as it is and as it might have been shown."""
    seen = run.observations
    whole = features(seen, run.probe if probed else None)
    found = [whole]
    bare = {n: np.nan if n.startswith(("inside_", "config_")) else value for n, value in whole.items()}
    found.append(bare)
    if not probed:
        if run.label not in LATE:
            epoch = max(round(rng.choice(PARTS) * seen.epochs), 1)
            if epoch < seen.epochs:
                found.append(features(seen.until(epoch)))
        curves = {n: c for n, c in seen.curves.items() if n in ("train_loss", "val_loss", "val_error")}
        found.append(features(replace(seen, curves=curves, first={}, layers={}, config=Config(), facts={})))
    return found


WEIGHTS = (1.0, 0.35, 0.35, 0.2)  # of the views


def table(runs: Sequence[LabelledRun], probed: bool) -> tuple[Array, NDArray[Any], Array, NDArray[np.int64]]:
    """All views: their numbers, labels, weights, and the run that each is of."""
    rng = random.Random(0)
    x, labels, weights, owner = [], [], [], []
    for place, run in enumerate(runs):
        for view, weight in zip(views(run, probed, rng), WEIGHTS, strict=False):
            x.append(list(view.values()))
            labels.append(run.label)
            weights.append(weight)
            owner.append(place)
    return np.array(x), np.array(labels), np.array(weights), np.array(owner)


def fitted(x: Array, labels: NDArray[Any], weights: Array, names: Sequence[str], trees: int = TREES) -> Forest:
    """A forest of two kinds of random trees; every class weighs the square root of its number."""
    counts = Counter(labels.tolist())
    weights = weights / np.array([counts[label] ** 0.5 for label in labels.tolist()])
    x = np.where(np.isnan(x), MISSING, x)
    parts = []
    for kind, features_at_once in ((RandomForestClassifier, 0.2), (ExtraTreesClassifier, 0.4)):
        model = kind(trees, min_samples_leaf=LEAST_LEAF, max_features=features_at_once, random_state=0, n_jobs=-1).fit(
            x, labels, sample_weight=weights
        )
        parts += [tree.tree_ for tree in model.estimators_]
        classes = tuple(model.classes_.tolist())
    return _flat(parts, tuple(names), classes)


def _flat(trees: Sequence[Any], names: tuple[str, ...], classes: tuple[str, ...]) -> Forest:
    feature, threshold, left, right, leaves, roots = [], [], [], [], [], []
    nodes = rows = 0
    for tree in trees:
        roots.append(nodes)
        leaf = tree.children_left < 0
        place = np.cumsum(leaf) - 1 + rows
        feature.append(np.where(leaf, -1, tree.feature))
        threshold.append(tree.threshold)
        left.append(np.where(leaf, place, tree.children_left + nodes))
        right.append(np.where(leaf, 0, tree.children_right + nodes))
        shares = tree.value[leaf, 0, :]
        leaves.append(shares / shares.sum(1, keepdims=True))
        nodes += tree.node_count
        rows += int(leaf.sum())
    return Forest(
        names,
        classes,
        np.array(roots, np.int32),
        np.concatenate(feature).astype(np.int16),
        np.concatenate(threshold).astype(np.float32),
        np.concatenate(left).astype(np.int32),
        np.concatenate(right).astype(np.int32),
        np.concatenate(leaves).astype(np.float32),
    )


def calibration(votes: Array, labels: NDArray[Any], classes: Sequence[str]) -> tuple[float, Array]:
    """Temperature and biases that make the labels likeliest; biases are held near 0."""
    target = np.array([classes.index(label) for label in labels.tolist()])
    scores = np.log(np.maximum(votes, FLOOR))

    def cost(parameters: Array) -> float:
        z = scores / np.exp(parameters[0]) + parameters[1:]
        z = z - z.max(1, keepdims=True)
        likely = z[np.arange(len(z)), target] - np.log(np.exp(z).sum(1))
        return float(-likely.mean() + 0.005 * (parameters[1:] ** 2).sum() / len(classes))

    best = minimize(cost, np.zeros(1 + len(classes)), method="L-BFGS-B").x
    return float(np.exp(best[0])), best[1:]


Cell = tuple[str, str]  # a data set and an architecture


def cross_fitted(runs: Sequence[LabelledRun], probed: bool) -> tuple[dict[Cell, Forest], Array]:
    """By cell, a forest that saw neither its data set nor its architecture, calibrated on cells that were fitted
    without themselves; and the votes (N, C) of the runs by those forests, over all classes in alphabetical order."""
    x, labels, weights, owner = table(runs, probed)
    names = list(features(runs[0].observations))
    classes = sorted(set(labels.tolist()))
    data, kinds = np.array([r.dataset for r in runs]), np.array([r.architecture for r in runs])
    first = np.searchsorted(owner, np.arange(len(runs)))  # the whole run is its first view
    votes = np.zeros((len(runs), len(classes)))
    truth = np.array([r.label for r in runs])
    forests: dict[Cell, Forest] = {}
    others: dict[Cell, NDArray[np.bool_]] = {}
    for cell in sorted(set(zip(data.tolist(), kinds.tolist(), strict=True))):
        inside = (data == cell[0]) & (kinds == cell[1])
        others[cell] = (data != cell[0]) & (kinds != cell[1])
        rows = others[cell][owner]
        forests[cell] = fitted(x[rows], labels[rows], weights[rows], names)
        columns = [classes.index(name) for name in forests[cell].classes]
        votes[np.ix_(inside, columns)] = forests[cell].votes(x[first[inside]])
    for cell, forest in forests.items():
        temperature, bias = calibration(votes[others[cell]], truth[others[cell]], classes)
        bias = bias[[classes.index(name) for name in forest.classes]]
        forests[cell] = replace(forest, temperature=temperature, bias=bias)
    return forests, votes


def held_out(forests: Mapping[bool, Mapping[Cell, Forest]], run: LabelledRun, probed: bool) -> dict[str, float]:
    """Probabilities of a run, or of an earlier stage of it, from the forest that saw nothing like it."""
    forest = forests[probed][run.dataset, run.architecture]
    numbers = features(run.observations, run.probe if probed else None)
    row = forest.probabilities(np.array([[numbers[name] for name in forest.names]]))[0]
    return dict(zip(forest.classes, row.tolist(), strict=True))


def write(path: Path, forests: dict[str, Forest]) -> None:
    """Plain arrays; shares of votes in steps of 1/255."""
    arrays: dict[str, Any] = {}
    for part, forest in forests.items():
        arrays |= {
            f"{part}_names": np.array(forest.names),
            f"{part}_classes": np.array(forest.classes),
            f"{part}_roots": forest.roots,
            f"{part}_feature": forest.feature,
            f"{part}_threshold": forest.threshold,
            f"{part}_left": forest.left,
            f"{part}_right": forest.right,
            f"{part}_leaves": np.round(forest.leaves * 255).astype(np.uint8),
            f"{part}_temperature": np.array(forest.temperature),
            f"{part}_bias": forest.bias,
        }
    np.savez_compressed(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, help="write the classifier here")
    parser.add_argument("--predictions", type=Path, help="write the held-out probabilities here, as JSON by run")
    parser.add_argument("--json", type=Path, help="score held-out diagnoses beside the published rules, into this file")
    given = parser.parse_args()
    runs = list(read_runs(given.runs))
    forests: dict[bool, dict[Cell, Forest]] = {}
    shipped = {}
    for probed in (False, True):
        chosen = [run for run in runs if run.probe or not probed]
        forests[probed], votes = cross_fitted(chosen, probed)
        if given.out is not None:
            x, labels, weights, _ = table(chosen, probed)
            forest = fitted(x, labels, weights, list(features(chosen[0].observations)), SHIPPED_TREES)
            temperature, bias = calibration(votes, np.array([run.label for run in chosen]), forest.classes)
            shipped["probed" if probed else "plain"] = replace(forest, temperature=temperature, bias=bias)
    if given.out is not None:
        write(given.out, shipped)
    if given.predictions is not None:
        predictions = {
            "plain": {run.id: held_out(forests, run, False) for run in runs},
            "probed": {run.id: held_out(forests, run, True) for run in runs if run.probe},
        }
        given.predictions.write_text(json.dumps(predictions))
    ours: dict[str, Diagnoser] = {
        "Rheostat": lambda run: said(diagnose(run.observations, held_out(forests, run, False))),
        "Rheostat with probes": lambda run: (
            said(diagnose(run.observations, held_out(forests, run, True))) if run.probe else {}
        ),
    }
    report = score(runs, {**ours, **published()}, moments=10 if given.json else 0)
    for part in tables(report):
        Console().print(part)
    if given.json is not None:
        given.json.write_text(json.dumps(plain(dataclasses.asdict(report)), indent=1) + "\n")


if __name__ == "__main__":
    main()
