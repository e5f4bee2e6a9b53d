"""The forest as arrays against scikit-learn's, its calibration, and the numbers it looks at."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pathologies.fit import LEAST_LEAF, calibration, fitted, write
from rheostat.diagnose import classifier
from rheostat.diagnose.base import HEALTHY, Observations
from rheostat.diagnose.catalogue import LEARNT
from rheostat.diagnose.classifier import MISSING, calibrated, load, probabilities, probabilities_of
from rheostat.diagnose.features import PROBES, features
from rheostat.types import Config, Status

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 5))
Y = np.array(["a", "b", "c"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]
X[RNG.random(X.shape) < 0.1] = math.nan


def test_the_arrays_say_what_the_trees_say(tmp_path: Path) -> None:
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    forest = fitted(X, Y, np.ones(len(Y)), list("pqrst"), trees=20)
    counts = {label: int((label == Y).sum()) for label in set(Y.tolist())}
    weights = np.array([counts[label] ** -0.5 for label in Y.tolist()])
    filled = np.nan_to_num(X, nan=MISSING)
    kinds = ((RandomForestClassifier, 0.2), (ExtraTreesClassifier, 0.4))
    votes = [
        kind(20, min_samples_leaf=LEAST_LEAF, max_features=at_once, random_state=0)
        .fit(filled, Y, sample_weight=weights)
        .predict_proba(filled.astype(np.float32))
        for kind, at_once in kinds
    ]
    np.testing.assert_allclose(forest.votes(X), np.mean(votes, axis=0), atol=1e-6)
    from dataclasses import replace

    path = tmp_path / "classifier.npz"
    write(path, {"plain": replace(forest, temperature=0.5, bias=np.array([0.1, 0.0, -0.1]))})
    read = load(False, path)
    assert (read.names, read.classes, read.temperature) == (tuple("pqrst"), ("a", "b", "c"), 0.5)
    np.testing.assert_allclose(read.votes(X), forest.votes(X), atol=1 / 255)


def test_calibration_finds_how_sure_the_votes_should_be() -> None:
    """Labels drawn from softmax(2 log votes): the temperature is a half."""
    rng = np.random.default_rng(1)
    votes = rng.dirichlet([1.0, 1.0, 1.0], size=20_000)
    right = votes**2 / (votes**2).sum(1, keepdims=True)
    labels = np.array(["a", "b", "c"])[(right.cumsum(1) < rng.random((len(votes), 1))).sum(1)]
    temperature, bias = calibration(votes, labels, ("a", "b", "c"))
    assert temperature == pytest.approx(0.5, abs=0.03)
    assert np.abs(bias - bias.mean()).max() < 0.05
    np.testing.assert_allclose(calibrated(votes, temperature, bias).sum(1), 1)


values = st.floats(width=64) | st.just(math.nan) | st.just(math.inf)


@st.composite
def runs(draw: st.DrawFn) -> Observations:
    epochs = draw(st.integers(0, 5))
    names = ["train_loss", "val_loss", "val_error", "lr", "grad_norm", "batch_loss_max", "probe_loss", "val_accuracy"]
    curves = draw(
        st.dictionaries(st.sampled_from(names), st.lists(values, min_size=epochs, max_size=epochs), max_size=6)
    )
    layers = draw(
        st.dictionaries(
            st.sampled_from(["dead", "saturated", "update_ratio", "gradient_norm"]),
            st.dictionaries(st.sampled_from(["a", "b"]), st.lists(values, min_size=epochs, max_size=epochs)),
        )
    )
    config = draw(st.dictionaries(st.sampled_from(["lr", "batch_size", "clip_norm", "dropout", "optimizer"]), values))
    return Observations(
        {name: np.array(curve) for name, curve in curves.items()},
        draw(st.dictionaries(st.integers(0, 9), values, max_size=4)),
        {m: {n: np.array(curve) for n, curve in by.items()} for m, by in layers.items()},
        Config(config),
        draw(st.sampled_from(list(Status))),
        max_epochs=draw(st.integers(0, 9)),
        facts=draw(st.dictionaries(st.sampled_from(["classes", "prior_loss", "examples"]), values)),
    )


@given(runs())
def test_any_run_has_its_numbers(run: Observations) -> None:
    found = features(run)
    assert list(found) == list(features(Observations({})))
    assert all(isinstance(value, float) for value in found.values())


def test_numbers_do_not_depend_on_the_scale_of_the_loss() -> None:
    curve = np.array([2.0, 1.5, 1.2, 1.25, 1.1])

    def scaled(by: float) -> dict[str, float]:
        curves = {"train_loss": by * curve, "val_loss": by * (curve + 0.1)}
        return features(Observations(curves, {0: by * 2.3, 4: by * 2.2}, facts={"prior_loss": by * 2.3}))

    for name, value in scaled(1.0).items():
        assert scaled(7.0)[name] == pytest.approx(value, nan_ok=True, abs=1e-9), name


def test_probes_are_numbers_too() -> None:
    found = features(Observations({}), {"probe_lr_up": -0.3})
    assert found["probe_lr_up"] == -0.3 and all(math.isnan(found[n]) for n in PROBES if n != "probe_lr_up")


@pytest.mark.skipif(not classifier.FILE.exists(), reason="the classifier is not fitted")
def test_the_classifier_that_is_shipped_knows_what_is_catalogued() -> None:
    assert classifier.FILE.stat().st_size < 3_000_000
    for probed in (False, True):
        assert {HEALTHY, *LEARNT} >= set(load(probed).classes) and len(load(probed).classes) >= 15
    falling = np.array([2.2, 1.0, 0.5, 0.3, 0.25, 0.22, 0.21, 0.21])
    good = Observations({"train_loss": falling, "val_loss": falling + 0.02})
    lost = Observations({"train_loss": falling[:0]}, {0: 2.3, 1: 9.0, 2: 1e6}, status=Status.INFEASIBLE)
    both = probabilities_of([good, lost], [{}, {}])
    assert both[1]["diverged"] > 0.5 and max(both[0], key=both[0].__getitem__) == HEALTHY
    for found in (*both, probabilities(good, {"probe_lr_up": 0.1})):
        assert sum(found.values()) == pytest.approx(1)
