"""Several objectives and limits as one value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from rheostat.schedule.asha import ASHA
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.schedule.goals import GoalReader, WithGoals
from rheostat.schedule.hyperband import Hyperband
from rheostat.schedule.median import Median
from rheostat.schedule.pbt import PBT
from rheostat.search.random import Random
from rheostat.search.tpe import TPE
from rheostat.space import Float, Space
from rheostat.types import Config, History, Status, TrialRecord

SPACE = Space(x=Float(0, 1), y=Float(0, 1))
value = st.integers(-40, 40).map(lambda quarters: quarters / 4)
tiny = st.sampled_from([5e-324, 1e-310])


@st.composite
def histories(draw: st.DrawFn, limits: int = 1, odd: bool = False) -> History:
    """Trials of three objectives and some limits; `odd` ones diverge, or lack a measure."""
    number = value | tiny | st.floats() if odd else value
    trials = []
    for place in range(draw(st.integers(1, 12))):
        epochs = draw(st.integers(0, 4))
        row = st.lists(st.tuples(number, number), min_size=epochs, max_size=epochs)
        over = st.lists(st.tuples(*[number | tiny] * limits), min_size=epochs, max_size=epochs)
        values = tuple(draw(st.lists(number, min_size=epochs, max_size=epochs)))
        also, excess = tuple(draw(row)), tuple(draw(over))
        trials.append(TrialRecord(place, Config(x=0.5), Status.PAUSED, values, epochs, also=also, excess=excess))
    return History(tuple(trials))


def last(history: History, trial: int) -> float:
    return GoalReader().read(history).trials[trial].values[-1]


@given(histories(odd=True))
def test_values_are_of_what_is_kept_and_epochs_that_diverged_stay(history: History) -> None:
    for old, new in zip(history.trials, GoalReader().read(history).trials, strict=True):
        assert new.epochs == old.epochs and new.config == old.config and new.status == old.status
        kept: tuple[object, float] | None = None  # the best epoch so far, and what it was worth
        for epoch, (before, after) in enumerate(zip(old.values, new.values, strict=True), start=1):
            if not math.isfinite(before):
                assert repr(after) == repr(before)
                continue
            assert 0 <= after <= 2
            best = min((v, e) for e, v in enumerate(old.values[:epoch]) if math.isfinite(v))[1]
            assert kept is None or kept[0] != best or kept[1] == after
            kept = best, after


@given(histories())
def test_a_dominated_trial_is_never_worth_more_than_what_dominates_it(history: History) -> None:
    made = GoalReader().read(history).trials
    standing = [(t.objectives, t.keeps_limits, made[t.number].values[-1]) for t in history.trials if t.values]
    for one, one_keeps, one_worth in standing:
        for other, other_keeps, other_worth in standing:
            if one_keeps and other_keeps and all(a < b for a, b in zip(one, other, strict=True)):
                assert one_worth < other_worth
            if one_keeps and not other_keeps:
                assert one_worth < 1 <= other_worth


@given(histories(limits=0))
def test_the_best_value_is_on_the_front_and_all_of_the_front_comes_before_the_rest(history: History) -> None:
    begun = [t for t in history.trials if t.values]
    made = GoalReader().read(history).trials
    front = [t for t in begun if not any(dominates(o.objectives, t.objectives) for o in begun)]
    rest = [t for t in begun if t not in front]
    worst = max((made[t.number].values[-1] for t in front), default=0.0)
    assert all(made[t.number].values[-1] >= worst for t in rest)
    if begun:
        assert min(begun, key=lambda t: (made[t.number].values[-1], t not in front)) in front


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@given(histories(limits=0))
def test_is_the_maximin_fitness(history: History) -> None:
    """Balling 2003, by its definition, over the front, between ranks."""
    begun = [t for t in history.trials if t.values]
    if not begun:
        return
    points = np.array([t.objectives for t in begun])
    ranks = np.array([[len({v for v in column if v < value}) for value in column] for column in points.T]).T
    points = ranks / np.maximum(ranks.max(0), 1)
    front = [i for i, p in enumerate(points) if not any(dominates(tuple(o), tuple(p)) for o in points)]
    fitness = [max((min(p - points[j]) for j in front if j != i), default=-1.0) for i, p in enumerate(points)]
    order = np.maximum(fitness, -1.0)
    made = [GoalReader().read(history).trials[t.number].values[-1] for t in begun]
    for a in range(len(begun)):
        for b in range(len(begun)):
            if order[a] < order[b] - 1e-9:
                assert made[a] <= made[b]


def one(number: int, metric: float, *, also: tuple[float, ...] = (), excess: tuple[float, ...] = ()) -> TrialRecord:
    return TrialRecord(
        number, Config(x=0.5), Status.PAUSED, (metric,), 1, also=(also,) if also else (), excess=(excess,)
    )


def test_with_limits_alone_trials_keep_the_order_of_their_metric() -> None:
    history = History((one(0, 3.0, excess=(-1.0,)), one(1, 1.0, excess=(0.0,)), one(2, 2.0, excess=(-5.0,))))
    worth = [t.values[0] for t in GoalReader().read(history).trials]
    assert worth[1] == 0 < worth[2] < worth[0] < 1


def test_the_smaller_breach_comes_first_in_units_of_each_limit() -> None:
    """Trial 1 breaks one limit by 1 ms, trial 0 the other by 50 MB, where breaches of 100 MB and 10 ms are usual."""
    breaches = [(-1.0, 50.0), (1.0, -9.0), (10.0, 100.0), (10.0, 100.0), (20.0, 200.0)]
    history = History(tuple(one(i, 0.0, excess=excess) for i, excess in enumerate(breaches)))
    worth = [t.values[0] for t in GoalReader().read(history).trials]
    assert 1 < worth[1] < worth[0] < worth[2] == worth[3] < worth[4] < 2


def test_an_unmeasured_goal_counts_as_the_most_broken_limit_and_not_as_divergence() -> None:
    history = History((one(0, 0.0, also=(math.nan,), excess=(-1.0,)), one(1, 9.0, also=(9.0,), excess=(1e9,))))
    worth = [t.values[0] for t in GoalReader().read(history).trials]
    assert worth[1] < worth[0] == 2


@given(histories(limits=0), st.floats(0.1, 10), st.floats(-5, 5))
def test_the_scale_of_a_measure_is_no_matter(history: History, factor: float, shift: float) -> None:
    """The order of the last values is the same, whatever is measured, in bytes, gigabytes, or their logarithm."""

    def other(trial: TrialRecord) -> TrialRecord:
        return replace(trial, also=tuple((math.exp(a / 5), factor * b + shift) for a, b in trial.also))

    def order(history: History) -> list[float]:
        worth = [trial.values[-1] for trial in GoalReader().read(history).trials if trial.values]
        return list(rankdata(np.round(worth, 9)))

    assert order(History(tuple(map(other, history.trials)))) == order(history)


SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "fifo": lambda: FIFO(TPE(SPACE, 0), 60, 9),
    "asha": lambda: ASHA(Random(SPACE), 60, 9),
    "hyperband": lambda: Hyperband(Random(SPACE), 60, 9),
    "median": lambda: Median(Random(SPACE), 60, 9),
    "freeze-thaw": lambda: FreezeThaw(SPACE, 60, 9),
    "pbt": lambda: PBT(SPACE_OF_RATES, Random(SPACE_OF_RATES), 20, 9, population=5, interval=3),
}
SPACE_OF_RATES = Space(lr=Float(0, 1), dropout=Float(0, 1))


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=8)
@given(history=histories(odd=True))
def test_a_new_reader_decides_as_one_that_has_read_before(name: str, history: History) -> None:
    kept = WithGoals(SCHEDULERS[name]())
    for many in range(len(history.trials) + 1):
        some = History(history.trials[:many])
        fresh = WithGoals(SCHEDULERS[name]())
        rng = [np.random.default_rng(many) for _ in range(2)]
        assert kept.next(some, 2, rng[0]) == fresh.next(some, 2, rng[1])
    assert kept.adaptive == SCHEDULERS[name]().adaptive
