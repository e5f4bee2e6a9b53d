"""Each rule on studies whose truth is known, and its false alarms where there is nothing to say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rheostat.analysis.advice import advise
from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.analysis.rules.failures import infeasible
from rheostat.analysis.rules.ranges import LIMITS, range_edges
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, Status, TrialRecord

TEN = Space({f"x{i}": Float(0.0, 1.0) for i in range(8)}, lr=Float(1e-5, 1e-1, log=True), layers=Int(1, 4))


def study(space, n, effect, rng, noise=1.0, max_epochs=None):
    """`n` random trials of one epoch; their value is -effect(config) and noise."""
    configs = space.sample(rng, n)
    values = [-effect(c) + noise * rng.normal() for c in configs]
    return [TrialRecord(i, c, Status.DONE, (v,), 1) for i, (c, v) in enumerate(zip(configs, values, strict=True))]


def of_kind(advice: list[Advice], kind: str) -> list[Advice]:
    return [a for a in advice if a.kind == kind]


def edges(space, trials):
    return range_edges(Evidence(space, trials, None, "val_loss"))


def unit(config):
    return TEN["lr"].encode(config["lr"])


# -- range edges ---------------------------------------------------------------------------------------------


def test_range_edge_is_silent_where_nothing_matters():
    rng = np.random.default_rng(1)
    alarms = sum(bool(edges(TEN, study(TEN, n, lambda c: 0.0, rng))) for n in (20, 60) * 100)
    assert alarms < 20  # of 200; five in a hundred are expected at most


def test_range_edge_finds_a_monotone_effect():
    rng = np.random.default_rng(2)
    found = wrong = 0
    for _ in range(60):
        names = [a.hyperparameter for a in edges(TEN, study(TEN, 60, lambda c: 10 * unit(c), rng))]
        found += "lr" in names
        wrong += any(name != "lr" for name in names)
    assert found > 48
    assert wrong < 6


@pytest.mark.parametrize("peak", [0.3, 0.5, 0.7])
def test_range_edge_is_silent_where_the_optimum_is_inside(peak):
    rng = np.random.default_rng(3)
    effect = lambda c: -20 * (unit(c) - peak) ** 2  # noqa: E731
    alarms = sum("lr" in [a.hyperparameter for a in edges(TEN, study(TEN, 60, effect, rng))] for _ in range(40))
    assert alarms <= 2


def test_range_edge_sees_through_early_stopping():
    """The worse half is stopped after one epoch of ten: values of different lengths cannot be compared."""
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(30):
        first = study(TEN, 60, lambda c: 10 * unit(c), rng)
        limit = np.median([t.best for t in first])
        trials = [
            TrialRecord(t.number, t.config, Status.CUT, t.values)
            if t.best > limit
            else TrialRecord(t.number, t.config, Status.DONE, tuple(t.best - e for e in range(10)))
            for t in first
        ]
        found += "lr" in [a.hyperparameter for a in edges(TEN, trials)]
    assert found > 24


def test_range_edge_is_not_suggested_where_larger_values_diverge():
    rng = np.random.default_rng(5)
    trials = study(TEN, 80, lambda c: 10 * unit(c), rng, noise=0.5)
    trials = [
        TrialRecord(t.number, t.config, Status.INFEASIBLE, (math.nan,)) if unit(t.config) > 0.8 else t for t in trials
    ]
    assert "lr" not in [a.hyperparameter for a in edges(TEN, trials)]


@pytest.mark.parametrize(
    ("name", "part", "rising", "range_"),
    [
        ("lr", Float(1e-5, 1e-1, log=True), True, (1e-5, 1.0)),
        ("lr", Float(1e-5, 1e-1, log=True), False, (1e-6, 1e-1)),
        ("gain", Float(-1.0, 2.0), True, (-1.0, 5.0)),
        ("gain", Float(-1.0, 2.0), False, (-4.0, 2.0)),
        ("gain", Float(0.5, 2.0), False, (0.0, 2.0)),
        ("gain", Float(0.0, 2.0), False, None),
        ("layers", Int(1, 4), True, (1, 7)),
        ("layers", Int(1, 4), False, None),
        ("layers", Int(3, 8), False, (1, 8)),
        ("units", Int(16, 512, log=True), True, (16, 1024)),
        ("units", Int(16, 512, log=True), False, (8, 512)),
        ("units", Int(16, 512, step=8), True, (16, 1008)),
        ("momentum", Float(0.5, 0.99), True, (0.5, 0.999)),
        ("dropout_rate", Float(0.0, 0.5), True, (0.0, 0.9)),
        ("attention_dropout", Float(0.0, 0.9), True, None),
        ("warmup_steps", Int(0, 1000), True, (0, 2000)),  # not the fraction that `warmup` is
        ("seed", Int(0, 99), True, None),
    ],
)
def test_range_edge_widens_as_far_as_makes_sense(name, part, rising, range_):
    space = Space({name: part, "other": Float(0.0, 1.0)})
    direction = 1 if rising else -1
    rng = np.random.default_rng(6)
    advice = edges(space, study(space, 60, lambda c: direction * part.encode(c[name]), rng, noise=0.01))
    if range_ is None:
        assert advice == []
    else:
        assert [a.hyperparameter for a in advice] == [name]
        suggested = advice[0].suggestion[name]
        assert (suggested["low"], suggested["high"]) == pytest.approx(range_)
        assert type(part)(suggested["low"], suggested["high"], log=part.log)
        assert f"its {'upper' if rising else 'lower'} edge" in advice[0].text


def test_range_edge_tells_what_to_do():
    rng = np.random.default_rng(7)
    space = Space(lr=Float(1e-5, 1e-1, log=True))
    trials = study(space, 60, lambda c: space["lr"].encode(c["lr"]), rng, noise=0.01)
    value = min(trials, key=lambda t: t.best).config["lr"]
    assert [a.text for a in edges(space, trials)] == [
        f"lr sits at its upper edge 0.1 (the best trial has {value:.4g}): widen it, for example to 1."
    ]


def test_range_edge_knows_conditions_and_choices():
    """momentum exists for sgd alone; the choice, which has no edges, decides most."""
    space = Space(
        optimizer=Choice(["adam", "sgd"]),
        momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
        x=Float(0.0, 1.0),
    )
    effect = lambda c: 10 + 5 * c["momentum"] if c["optimizer"] == "sgd" else 0.0  # noqa: E731
    advice = edges(space, study(space, 80, effect, np.random.default_rng(8), noise=0.1))
    assert [a.hyperparameter for a in advice] == ["momentum"]


def test_limits_name_known_hyperparameters():
    from rheostat import hyperparameters

    assert set(LIMITS) <= set(hyperparameters.names())


# -- trials that gave nothing --------------------------------------------------------------------------------


def ended(space, n, is_bad, status=Status.INFEASIBLE, seed=0):
    rng = np.random.default_rng(seed)
    return [
        TrialRecord(i, c, status if bad else Status.DONE, () if bad else (rng.random(),), reason="not finite" * bad)
        for i, c in enumerate(space.sample(rng, n))
        for bad in [bool(is_bad(c))]
    ]


def test_infeasible_names_the_threshold():
    trials = ended(TEN, 60, lambda c: c["lr"] > 1e-4)
    advice = advise(TEN, trials, 20, "val_loss", 1, None)[0]
    assert (advice.kind, advice.hyperparameter) == ("infeasible", "lr")
    assert advice.suggestion["lr"]["low"] == 1e-5
    assert 5e-5 < advice.suggestion["lr"]["high"] <= 1.05e-4
    assert "failed or diverged, most often: not finite" in advice.text
    assert "lr above" in advice.text


def test_infeasible_names_a_lower_threshold_of_whole_numbers():
    space = Space(x=Float(0.0, 1.0), units=Int(1, 100))
    advice = advise(space, ended(space, 60, lambda c: c["units"] < 70, Status.FAILED), 20, "val_loss", 1, None)[0]
    assert advice.hyperparameter == "units"
    low, high = advice.suggestion["units"]["low"], advice.suggestion["units"]["high"]
    assert 68 <= low <= 75
    assert high == 100
    assert isinstance(low, int)


def test_infeasible_names_the_value_of_a_choice():
    space = Space(optimizer=Choice(["adam", "lion", "sgd"], prior="lion"), x=Float(0.0, 1.0))
    advice = advise(space, ended(space, 60, lambda c: c["optimizer"] == "lion"), 20, "val_loss", 1, None)[0]
    assert advice.suggestion == {"optimizer": {"values": ["adam", "sgd"]}}


def test_infeasible_blames_nothing_without_evidence():
    rng = np.random.default_rng(9)
    blamed = 0
    for seed in range(100):
        trials = ended(TEN, 40, lambda c: rng.random() < 0.8, seed=seed)
        first = infeasible(Evidence(TEN, trials, 20, "val_loss"))[0]
        assert first.kind == "infeasible"
        blamed += first.hyperparameter is not None
    assert blamed <= 2
    assert "No single hyperparameter" in first.text


def test_infeasible_is_silent_below_a_half():
    assert of_kind(advise(TEN, ended(TEN, 60, lambda c: c["lr"] > 1e-2), 20, "loss", 1, None), "infeasible") == []


def test_paused_trials_count_as_tried():
    """Successive halving leaves most trials paused: they have a result, and they are feasible."""
    bad = ended(TEN, 5, lambda c: True)
    paused = [TrialRecord(5 + i, t.config, Status.PAUSED, (0.5,)) for i, t in enumerate(ended(TEN, 6, lambda c: True))]
    assert advise(TEN, [*bad, *paused], 20, "val_loss", 1, None) == []


def test_all_trials_bad():
    trials = ended(TEN, 12, lambda c: True, Status.FAILED)
    kinds = [a.kind for a in advise(TEN, trials, 20, "val_error", 1, 100)]
    assert kinds == ["infeasible", "few trials"]


def test_few_trials():
    assert advise(TEN, [], 20, "val_loss", 1, None) == []
    trials = study(TEN, 14, lambda c: 0.0, np.random.default_rng(0))
    assert [a.kind for a in advise(TEN, trials[:5], 20, "val_loss", 1, None)] == ["few trials"]
    assert "Only 5 trials gave a result" in advise(TEN, trials[:5], 20, "val_loss", 1, None)[0].text
    assert "23%" in advise(TEN, trials[:5], 20, "val_loss", 1, None)[0].text  # 1 - 0.95^5
    assert advise(TEN, trials, 20, "val_loss", 1, None) == []


# -- length of training --------------------------------------------------------------------------------------


def with_curves(curve, n=30, seed=0, status=Status.DONE, **config):
    """`n` trials with the curve (of epochs from 1), each a little higher than the one before."""
    rng = np.random.default_rng(seed)
    return [
        TrialRecord(i, Config(x=rng.random(), **config), status, tuple(v + i / 1e4 for v in curve(rng)))
        for i in range(n)
    ]


SPACE = Space(x=Float(0.0, 1.0))


def length(trials, metric="val_loss", max_epochs=20):
    advice = advise(SPACE, trials, max_epochs, metric, 1, None)
    return [a for a in advice if a.kind in ("too short", "wasted")]


@pytest.mark.parametrize("epochs", [4, 6, 20, 100])
def test_too_short_finds_curves_that_still_fall(epochs):
    falling = with_curves(lambda rng: 2 * np.exp(-np.arange(epochs) / epochs) + 0.01 * rng.normal(size=epochs))
    assert [(a.kind, a.suggestion) for a in length(falling)] == [("too short", {"epochs": 2 * epochs})]
    assert "train longer" in length(falling)[0].text


@pytest.mark.parametrize("epochs", [4, 6, 20, 100])
def test_too_short_is_silent_on_plateaus_with_noise(epochs):
    plateau = lambda rng: 1 + 0.1 * rng.normal(size=epochs)  # noqa: E731
    alarms = sum(bool(length(with_curves(plateau, seed=seed))) for seed in range(100))
    assert alarms <= 8


def test_too_short_is_silent_where_the_gain_is_negligible():
    assert length(with_curves(lambda rng: 1 - np.arange(20) / 1e5)) == []


def test_too_short_takes_an_accuracy_as_an_error():
    """From 99.0% to 99.3% is a third of the errors."""
    curve = lambda rng: -np.linspace(0.98, 0.993, 20)  # noqa: E731
    trials = with_curves(curve)
    assert [a.kind for a in advise(SPACE, trials, 20, "val_accuracy", -1, None)] == ["too short"]


def test_too_short_is_careful_where_the_rate_is_annealed():
    curve = lambda rng: np.linspace(1, 0.5, 20)  # noqa: E731
    assert "learning rate comes down" in length(with_curves(curve, schedule="cosine"))[0].text
    assert "train longer" in length(with_curves(curve, schedule="constant"))[0].text


def test_length_of_stopped_trials_says_nothing():
    falling = lambda rng: np.linspace(1, 0.5, 4)  # noqa: E731
    assert length(with_curves(falling, status=Status.PAUSED)) == []
    assert length(with_curves(falling, status=Status.PAUSED), max_epochs=4) != []


def test_wasted_epochs():
    early = lambda rng: np.concatenate([[1.0, 0.5], 0.8 + 0.1 * rng.random(18)])  # noqa: E731
    assert [(a.kind, a.suggestion) for a in length(with_curves(early))] == [("wasted", {"epochs": 6})]
    late = lambda rng: np.concatenate([[1.0, 0.6, 0.5], 0.8 + 0.1 * rng.random(17)])  # noqa: E731
    assert length(with_curves(late)) == []


def test_length_survives_values_that_are_not_finite():
    curve = lambda rng: [math.nan] * 14 + [math.inf, 1.0, 0.9, math.nan, 0.8, 0.7]  # noqa: E731
    assert [a.kind for a in length(with_curves(curve))] in ([], ["too short"])


# -- ties ----------------------------------------------------------------------------------------------------


def ties(wrong, n, metric="val_error", sign=1):
    offset = 0.0 if sign > 0 else -1.0
    trials = [TrialRecord(i, Config(x=0.5), Status.DONE, (w / n + offset,)) for i, w in enumerate(wrong)]
    return of_kind(advise(SPACE, trials, 20, metric, sign, n), "tie")


def test_ties_are_called_ties():
    """8 of 360 wrong: two standard errors are 2 √(0.0222 · 0.9778 / 360) = 1.55 points, or 5.6 examples."""
    advice = ties([14, 9, 8, 13, 12, 20, 30, 40, 50, 60, 70], 360)
    assert len(advice) == 1
    assert "3 trials are tied with the best, trial 2" in advice[0].text
    assert "360 validation examples (1.6 points" in advice[0].text
    assert "(1, 4, 3)" in advice[0].text


def test_ties_of_accuracies():
    assert "1 trial is tied with the best, trial 1" in ties([9, 8, 40], 360, "val_accuracy", -1)[0].text


def test_no_ties_beyond_the_noise_or_without_knowledge_of_it():
    assert ties([8, 14], 360) == []
    assert ties([8, 9], 360, "val_loss") == []
    assert ties([8.3, 8.4], 360) == []  # no share of 360 examples
    trials = [TrialRecord(i, Config(x=0.5), Status.DONE, (i / 360,)) for i in range(3)]
    assert of_kind(advise(SPACE, trials, 20, "val_error", 1, None), "tie") == []


def test_ties_at_no_error_at_all():
    assert "1 trial is tied" in ties([0, 1, 9], 360)[0].text


def test_ties_hold_for_two_equal_networks():
    """Networks with the same true error, which share half of their errors, are called tied nearly always."""
    rng = np.random.default_rng(10)
    n, p, called = 1000, 0.1, 0
    for _ in range(200):
        common = rng.random(n) < p / 2
        first, second = (int((common | (rng.random(n) < p / 2)).sum()) for _ in range(2))
        called += bool(ties([first, second], n))
    assert called >= 184


def test_at_most_five_and_the_gravest_first():
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(8)})
    effect = lambda c: sum(c.values())  # noqa: E731
    trials = study(space, 400, effect, np.random.default_rng(11), noise=0.01)
    advice = advise(space, trials, 20, "val_loss", 1, None)
    assert len(advice) <= 5
    assert {a.kind for a in advice} == {"range edge"}
