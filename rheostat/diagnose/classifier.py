"""How likely each cause is, learnt from runs of which the cause is known.

A random forest (Breiman 2001) on the numbers of `features`, calibrated by a temperature and a bias for each class
(vector scaling: Guo et al. 2017, section 4.2) on runs of data sets and architectures that its trees had not seen.
`benchmarks/pathologies/fit.py` makes it; `classifier.npz` holds plain arrays, and no code runs when it is read.
There are two: one for a run by itself, one for a run with its counterfactual probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rheostat.diagnose.base import Observations
from rheostat.diagnose.features import features

FILE = Path(__file__).with_name("classifier.npz")
MISSING = -99.0  # stands for what was not measured: below every threshold
FLOOR = 1e-3  # of a probability, before its logarithm is taken


@dataclass(frozen=True)
class Forest:
    """Trees as arrays over all nodes (N,): `feature` -1 marks a leaf, whose row of `leaves` is `left`.

    `roots` (T,) are the first nodes of the trees, `leaves` (L, C) shares of the classes, `bias` (C,).
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    leaves: NDArray[np.float32]
    temperature: float = 1.0
    bias: NDArray[np.float64] | None = None

    def votes(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of the leaves (N, C) that runs (N, F) come to."""
        x = np.where(np.isnan(x), MISSING, x).astype(np.float32)
        rows = np.arange(len(x))[:, None]
        node = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        while True:
            feature = self.feature[node]
            inner = feature >= 0
            if not inner.any():
                return self.leaves[self.left[node]].mean(1, dtype=np.float64)  # type: ignore[no-any-return]
            below = x[rows, np.maximum(feature, 0)] <= self.threshold[node]
            node = np.where(inner, np.where(below, self.left[node], self.right[node]), node)

    def probabilities(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated probabilities (N, C) of the classes of runs (N, F)."""
        return calibrated(
            self.votes(x), self.temperature, np.zeros(len(self.classes)) if self.bias is None else self.bias
        )


def calibrated(votes: NDArray[np.float64], temperature: float, bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of votes (N, C) as probabilities: softmax(log(votes) / temperature + bias)."""
    scores = np.log(np.maximum(votes, FLOOR)) / temperature + bias
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)  # type: ignore[no-any-return]


@cache
def load(probed: bool, file: Path = FILE) -> Forest:
    """The forest for runs with or without probes."""
    part = "probed" if probed else "plain"
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name.removeprefix(f"{part}_"): stored[name] for name in stored.files if name.startswith(part)}
    return Forest(
        tuple(arrays["names"].tolist()),
        tuple(arrays["classes"].tolist()),
        arrays["roots"],
        arrays["feature"],
        arrays["threshold"].astype(np.float32),
        arrays["left"],
        arrays["right"],
        arrays["leaves"].astype(np.float32) / 255,
        float(arrays["temperature"]),
        arrays["bias"],
    )


def probabilities_of(
    runs: Sequence[Observations], probes: Sequence[Mapping[str, float]] | None = None
) -> list[dict[str, float]]:
    """For each run, the probability of "healthy" and of every learnt pathology; they sum to 1.

    `probes` are the effects of counterfactuals of each run (`probe/counterfactual.py`), empty where there were none.
    """
    effects: Sequence[Mapping[str, float]] = probes if probes is not None else [{}] * len(runs)
    found: list[dict[str, float]] = [{} for _ in runs]
    for probed in (False, True):
        places = [place for place, effect in enumerate(effects) if bool(effect) is probed]
        if not places:
            continue
        forest = load(probed)
        numbers = [features(runs[place], effects[place]) for place in places]
        table = np.array([[row[name] for name in forest.names] for row in numbers], dtype=np.float64)
        for place, row in zip(places, forest.probabilities(table).tolist(), strict=True):
            found[place] = dict(zip(forest.classes, row, strict=True))
    return found


def probabilities(run: Observations, probe: Mapping[str, float] | None = None) -> dict[str, float]:
    """The same of one run."""
    return probabilities_of([run], None if probe is None else [probe])[0]
