"""Against shares computed by brute force, and against what does nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rheostat.analysis.importance import Importances, importance
from rheostat.search.tpe import TPE
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, History, Status, TrialRecord

Truth = Callable[[Config], float]
FOUR = Space(lr=Float(1e-5, 1e-1, log=True), dropout=Float(0.0, 0.5), layers=Int(1, 4), act=Choice(["relu", "tanh"]))


def study(space: Space, n: int, truth: Truth, rng: np.random.Generator, noise: float = 0.0) -> list[TrialRecord]:
    values = [(c, truth(c) + noise * rng.normal()) for c in space.sample(rng, n)]
    return [
        TrialRecord(i, c, Status.INFEASIBLE if math.isnan(v) else Status.DONE, () if math.isnan(v) else (v,))
        for i, (c, v) in enumerate(values)
    ]


def of(space: Space, n: int, truth: Truth, seed: int = 0, noise: float = 0.0) -> Importances:
    found = importance(space, study(space, n, truth, np.random.default_rng(seed), noise))
    assert found is not None
    return found


def brute_force(space: Space, truth: Truth, noise: float) -> dict[str, float]:
    """The share of the variance of ranks that the means over narrow slices of each hyperparameter have."""
    rng = np.random.default_rng(99)
    configs = space.sample(rng, 6_000)
    values = np.array([truth(c) for c in configs]) + noise * rng.normal(size=len(configs))
    ranks = np.argsort(np.argsort(values)) / len(values)
    return {name: _between(np.array([part.encode(c[name]) for c in configs]), ranks) for name, part in space.items()}


def _between(units: np.ndarray, ranks: np.ndarray) -> float:
    slices = np.unique(np.floor(units * 40), return_inverse=True)[1]
    counts = np.bincount(slices)
    means = np.bincount(slices, ranks) / counts
    between = float((counts * (means - ranks.mean()) ** 2).sum() / len(ranks))
    return max(between - ranks.var() * (len(counts) - 1) / len(ranks), 0.0) / float(ranks.var())


def additive(c: Config) -> float:
    lr = FOUR["lr"].encode(c.lr)
    return float(4 * (lr - 0.6) ** 2 + 0.8 * c.dropout + 0.1 * c.layers + 0.1 * (c.act == "tanh"))


@pytest.mark.parametrize("n", [60, 240])
def test_intervals_hold_the_shares_of_an_additive_function(n: int) -> None:
    noise = 0.15
    truth = brute_force(FOUR, additive, noise)
    found = [of(FOUR, n, additive, seed, noise) for seed in range(25)]
    for name, share in truth.items():
        inside = sum(one[name].low <= share <= one[name].high for one in found)
        assert inside >= 19, (name, share)  # of 25, where 90 % are promised for normal noise
        assert abs(np.mean([one[name].share for one in found]) - share) < 0.05
    assert all(one.each[0].hyperparameter == "lr" for one in found)


def test_what_is_explained_together_is_in_the_total_alone() -> None:
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(4)})
    found = of(space, 400, lambda c: (c.x0 - 0.5) * (c.x1 - 0.5), noise=0.01)
    assert found.pairs
    for name in ("x0", "x1"):
        assert found[name].share < 0.05 and found[name].total > 0.6 and found[name].most >= found[name].total
    for name in ("x2", "x3"):
        assert found[name].most < 0.1


def test_nothing_is_claimed_where_nothing_matters() -> None:
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(8)}, act=Choice(["a", "b", "c"]), layers=Int(1, 4))
    rng = np.random.default_rng(1)
    for n in (50, 120):
        found = [importance(space, study(space, n, lambda c: float(rng.normal()), rng)) for _ in range(30)]
        each = [one for f in found if f is not None for one in f.each]
        assert sum(one.low > 0 for one in each) <= 0.08 * len(each)  # 5 % are promised
        assert np.mean([one.share for one in each]) < 0.03
        claims = sum(min(one.p_value for one in f.each) < 0.05 / 10 for f in found if f is not None)
        assert claims <= 5  # of 30; one or two are expected
        assert np.mean([f.unexplained for f in found if f is not None]) > 0.75


def test_a_hyperparameter_under_a_condition_counts_where_it_is_active() -> None:
    space = Space(
        optimizer=Choice(["adam", "sgd", "lion"]),
        momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
        x=Float(0.0, 1.0),
    )
    found = of(space, 300, lambda c: c.get("momentum", 0.45), noise=0.1)
    assert found.each[0].hyperparameter == "momentum" and found["momentum"].low > 0.1
    assert found["x"].high < 0.05 and found["optimizer"].share < 0.1


def test_a_diverged_trial_is_the_worst_whatever_its_values() -> None:
    space = Space(lr=Float(1e-5, 1.0, log=True), x=Float(0.0, 1.0))
    found = of(space, 100, lambda c: math.nan if c.lr > 1e-2 else c.x)
    assert found.each[0].hyperparameter == "lr" and found["lr"].low > 0.3 < found["x"].share + 0.3


def test_a_search_that_crowds_does_not_make_what_does_nothing_important() -> None:
    """60 trials of TPE: where it liked, everything is good; averages over trials would blame all it settled on."""
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(5)}, lr=Float(1e-5, 1e-1, log=True))
    first, warned = 0, 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        searcher, trials = TPE(space, seed), []
        for i in range(60):
            config = searcher.suggest(History(tuple(trials)), 1, rng)[0]
            value = (space["lr"].encode(config.lr) - 0.7) ** 2 + 0.02 * float(rng.normal())
            trials.append(TrialRecord(i, config, Status.DONE, (value,)))
        found = importance(space, trials)
        assert found is not None
        first += found.each[0].hyperparameter == "lr"
        warned += "did not spread trials evenly" in found.warning
    assert first == 5 and warned >= 4


def test_an_even_spread_is_hardly_ever_called_uneven() -> None:
    warned = sum(bool(of(FOUR, 100, additive, seed).warning) for seed in range(25))
    assert warned <= 1


def test_trials_that_say_nothing() -> None:
    assert importance(FOUR, []) is None
    assert importance(FOUR, study(FOUR, 10, additive, np.random.default_rng(0))) is None
    assert importance(FOUR, study(FOUR, 100, lambda c: 1.0, np.random.default_rng(0))) is None
    assert importance(Space(x=1), [TrialRecord(i, Config(x=1), Status.DONE, (float(i),)) for i in range(30)]) is None
    good = study(FOUR, 60, additive, np.random.default_rng(0))
    extra = [
        TrialRecord(60, Config(lr=5.0, dropout=0.1, layers=1, act="relu"), Status.DONE, (0.0,)),  # of another space
        TrialRecord(61, good[0].config, Status.FAILED),
        TrialRecord(62, good[0].config, Status.WAITING),
    ]
    assert importance(FOUR, [*good, *extra]) == importance(FOUR, good)


def test_values_that_were_never_tried_break_nothing() -> None:
    space = Space(act=Choice(["a", "b", "never"]), x=Float(0.0, 1.0))
    trials = [t for t in study(space, 90, lambda c: c.x, np.random.default_rng(0)) if t.config.act != "never"]
    found = importance(space, trials)
    assert found is not None and found.each[0].hyperparameter == "x"
