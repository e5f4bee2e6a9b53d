"""What every searcher promises, whatever the space and whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.search.base import Searcher
from rheostat.search.bohb import BOHB
from rheostat.search.cma_es import CMAES
from rheostat.search.differential_evolution import DifferentialEvolution
from rheostat.search.gp import GP
from rheostat.search.grid import Grid, all_values, count
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.search.tpe import TPE
from rheostat.space import Choice, Float, Hyperparameter, Int, Prior, Space
from rheostat.types import Config, History, Status, TrialRecord
from tests.spaces import spaces

Make = Callable[[Space], Searcher]
SEARCHERS: dict[str, Make] = {  # a line for each searcher, or for each variant of one that decides differently
    "grid": lambda space: Grid(space, points=3, seed=1),
    "random": Random,
    "sobol": lambda space: Sobol(space, seed=1),
    "tpe": lambda space: TPE(space, seed=1),
    "gp": lambda space: GP(space, seed=1),
    "bohb": BOHB,
    "cma-es": lambda space: CMAES(space, seed=1),
    "differential-evolution": lambda space: DifferentialEvolution(space, seed=1, population=8),
}

every_searcher = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS.keys())
every_free_searcher = pytest.mark.parametrize(  # a grid has its own configurations, and not of too large a space
    "make", [make for name, make in SEARCHERS.items() if name != "grid"], ids=[n for n in SEARCHERS if n != "grid"]
)
contract = settings(max_examples=25)

MIXED = Space(lr=Float(1e-5, 1e-1, log=True, prior=1e-3), layers=Int(1, 6), optimizer=Choice(["adam", "sgd", "lamb"]))
ODD = (math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 0.0)


def wide(dimensions: int) -> Space:
    """A conditional space: every fourth hyperparameter is a choice, and the next two exist for one of its values."""
    parts: dict[str, Hyperparameter] = {}
    for i in range(dimensions):
        when = {f"p{i - i % 4}": "b"} if i % 4 in (1, 2) else None
        kinds = (Choice(["a", "b", "c"]), Float(1e-4, 1.0, log=True, when=when), Int(1, 9, when=when), Float(0.0, 1.0))
        parts[f"p{i}"] = kinds[i % 4]
    return Space(parts)


finite_spaces = spaces(max_size=4).map(
    lambda space: Space(
        {n: part for n, part in (space.tuned | space.fixed).items() if not isinstance(part, Float) or part.step}
    )
)
values = st.lists(st.sampled_from([0.5, 0.1, -2.0, 7.5, math.nan, math.inf, -math.inf]), max_size=4).map(tuple)
outcomes = st.tuples(st.sampled_from(Status), values)
curves = st.lists(st.floats(-10, 10), min_size=1, max_size=4).map(tuple)
plain = st.tuples(st.sampled_from([Status.DONE, Status.DONE, Status.PAUSED, Status.TRAINING]), curves)


@st.composite
def histories(draw: st.DrawFn, space: Space, most: int = 30) -> History:
    """Trials of the space with any outcome, with duplicates and equal values; some long enough to learn from."""
    seed = draw(st.integers(0, 5))
    configs = space.sample(np.random.default_rng(seed), draw(st.sampled_from([4, most])))
    picked = draw(st.lists(st.tuples(st.sampled_from(configs), outcomes | plain), max_size=most))
    return History(
        tuple(
            TrialRecord(i, config, status, values, len(values)) for i, (config, (status, values)) in enumerate(picked)
        )
    )


def grown(history: History, configs: Sequence[Config], value: float = 0.5, status: Status = Status.DONE) -> History:
    """The history with these configurations trained for an epoch."""
    first = len(history.trials)
    more = (TrialRecord(first + i, c, status, (value,), 1) for i, c in enumerate(configs))
    return History((*history.trials, *more))


def measured(space: Space, trials: int, value: Callable[[int], float], seed: int = 0) -> History:
    """Random trials of a space, each with its own value."""
    configs = space.sample(np.random.default_rng(seed), trials)
    return History(tuple(TrialRecord(i, c, Status.DONE, (value(i),), 1) for i, c in enumerate(configs)))


def study(
    searcher: Searcher, value: Callable[[Config], float], trials: int, batch: int = 1, first: Sequence[Config] = ()
) -> list[TrialRecord]:
    """So many trials, each of one epoch, `batch` of them at a time."""
    done: list[TrialRecord] = [TrialRecord(i, c, Status.DONE, (value(c),), 1) for i, c in enumerate(first)]
    while len(done) < trials:
        for config in searcher.suggest(History(tuple(done)), batch, np.random.default_rng(len(done))):
            done.append(TrialRecord(len(done), config, Status.DONE, (value(config),), 1))
    return done


def keys(configs: Sequence[Config]) -> list[str]:
    return [config.key() for config in configs]


def check_fit(space: Space, configs: Sequence[Config], n: int) -> None:
    assert len(configs) <= n
    for config in configs:
        assert space.complete(config).key() == config.key()


@every_searcher
@contract
@given(data=st.data(), n=st.integers(0, 6))
def test_suggestions_fit_the_space(make: Make, data: st.DataObject, n: int) -> None:
    space = data.draw(spaces(max_size=5))
    history = data.draw(histories(space))
    check_fit(space, make(space).suggest(history, n, np.random.default_rng(0)), n)


@every_searcher
@contract
@given(data=st.data())
def test_suggestions_depend_on_the_history_and_the_random_numbers_alone(make: Make, data: st.DataObject) -> None:
    """So a fresh searcher goes on after a crash as the one before it would have."""
    space = data.draw(spaces(max_size=5))
    history = data.draw(histories(space))
    before = repr(history)
    used = make(space)
    used.suggest(grown(history, space.sample(np.random.default_rng(7), 5)), 3, np.random.default_rng(8))
    first = used.suggest(history, 4, np.random.default_rng(3))
    again = used.suggest(history, 4, np.random.default_rng(3))
    fresh = make(space).suggest(history, 4, np.random.default_rng(3))
    assert keys(first) == keys(again) == keys(fresh)
    assert repr(history) == before


@every_searcher
def test_a_study_that_is_resumed_at_every_trial_goes_on_as_if_it_had_not_been(make: Make) -> None:
    """A searcher may remember what it computed, so long as nobody can tell: also where old trials change."""
    lasting, history = make(MIXED), History()
    for number in range(24):
        configs = lasting.suggest(history, 2, np.random.default_rng(number))
        fresh = make(MIXED).suggest(history, 2, np.random.default_rng(number))
        assert keys(configs) == keys(fresh)
        trials = [
            TrialRecord(t.number, t.config, Status.DONE, (*t.values, abs(math.log10(t.config.lr) + 3)), 2)
            if t.status is Status.TRAINING and t.number % 3
            else t
            for t in history.trials
        ]
        history = grown(History(tuple(trials)), configs, number / 10, Status.TRAINING)


@every_searcher
@contract
@given(data=st.data())
def test_a_batch_equals_single_suggestions_where_results_change_nothing(make: Make, data: st.DataObject) -> None:
    space = data.draw(spaces(max_size=5))
    searcher = make(space)
    if searcher.adaptive:
        return
    history = data.draw(histories(space))
    batch = searcher.suggest(history, 5, np.random.default_rng(3))
    rng, singles = np.random.default_rng(3), []
    for value in (0.1, math.nan, 3.0, math.inf, 0.1):
        config = searcher.suggest(grown(history, singles, value), 1, rng)
        singles += config
    assert keys(singles) == keys(batch)


@every_searcher
@contract
@given(data=st.data())
def test_a_finite_space_is_tried_without_repetition(make: Make, data: st.DataObject) -> None:
    space = data.draw(finite_spaces)
    history = data.draw(histories(space))
    tried = set(keys([trial.config for trial in history.trials]))
    configs = make(space).suggest(history, 30, np.random.default_rng(0))
    assert len(set(keys(configs))) == len(configs)
    assert not tried & set(keys(configs))


@every_searcher
@contract
@given(data=st.data(), trials=st.integers(0, 24))
def test_a_finite_space_is_tried_to_its_last_configuration(make: Make, data: st.DataObject, trials: int) -> None:
    space = Space(
        layers=Int(1, 3), optimizer=Choice(["adam", "sgd"]), beta=Choice([1, 2, 3], when={"optimizer": "sgd"})
    )
    history = measured(space, trials, lambda i: float(i % 5), seed=data.draw(st.integers(0, 9)))
    tried = set(keys([trial.config for trial in history.trials]))
    values = all_values(space)
    assert values is not None
    left = count(space, values) - len(tried)
    configs = make(space).suggest(history, 30, np.random.default_rng(0))
    assert len(configs) == len(set(keys(configs))) == left
    assert make(space).suggest(grown(history, configs), 3, np.random.default_rng(1)) == []


@every_searcher
def test_a_space_with_nothing_to_tune_has_one_configuration(make: Make) -> None:
    space = Space(lr=0.1)
    assert make(space).suggest(History(), 3, np.random.default_rng(0)) == [Config(lr=0.1)]
    history = grown(History(), [Config(lr=0.1)] * 30)
    assert make(space).suggest(history, 3, np.random.default_rng(0)) == []


@every_free_searcher
@pytest.mark.parametrize(
    "space",
    [
        Space(lr=Float(1e-5, 1e-1, log=True)),
        Space(units=Int(1, 10_000)),
        Space(optimizer=Choice(["adam", "sgd"]), lr=Float(0.1, 1.0, when={"optimizer": "sgd"})),
        wide(24),
    ],
    ids=["float", "int", "branch", "wide"],
)
def test_a_batch_is_of_distinct_configurations_where_there_are_so_many(make: Make, space: Space) -> None:
    searcher = make(space)
    configs = searcher.suggest(measured(space, 40, lambda i: math.sin(i)), 6, np.random.default_rng(0))
    check_fit(space, configs, 6)
    if searcher.adaptive:  # the others draw blindly, and may meet a branch without numbers twice
        assert len(set(keys(configs))) == len(configs) == 6


@every_searcher
@contract
@given(
    outcome=st.lists(
        st.tuples(st.sampled_from(Status), st.lists(st.sampled_from(ODD) | st.floats(-1, 1), max_size=5)),
        min_size=15,
        max_size=40,
    )
)
def test_values_that_are_not_finite_or_huge(make: Make, outcome: list[tuple[Status, list[float]]]) -> None:
    configs = MIXED.sample(np.random.default_rng(0), len(outcome))
    trials = [
        TrialRecord(i, config, status, tuple(values), len(values))
        for i, (config, (status, values)) in enumerate(zip(configs, outcome, strict=True))
    ]
    check_fit(MIXED, make(MIXED).suggest(History(tuple(trials)), 3, np.random.default_rng(1)), 3)


@every_searcher
def test_one_configuration_tried_over_and_over(make: Make) -> None:
    """With equal results, and with results that contradict each other."""
    config = MIXED.sample(np.random.default_rng(0))[0]
    for value in (lambda i: 0.5, lambda i: float(i)):
        history = History(tuple(TrialRecord(i, config, Status.DONE, (value(i),), 1) for i in range(40)))
        configs = make(MIXED).suggest(history, 3, np.random.default_rng(1))
        check_fit(MIXED, configs, 3)
        assert len({config.key(), *keys(configs)}) == 4


@every_searcher
@contract
@given(data=st.data())
def test_trials_from_before_the_space_changed(make: Make, data: st.DataObject) -> None:
    """A study may be continued with other ranges, conditions and values: its old trials stay in the history."""
    old = Space(
        lr=Float(1e-7, 10.0, log=True),
        layers=Int(0, 20),
        optimizer=Choice(["adam", "sgd", "rmsprop"]),
        momentum=Float(0.0, 1.0),
        width=16,
    )
    new = Space(
        lr=Float(1e-4, 1e-2, prior=Prior(1e-3, 0.4)),
        layers=Int(1, 5),
        optimizer=Choice(["adam", "sgd", "lion"]),
        momentum=Float(0.5, 0.9, when={"optimizer": "sgd"}),
        width=16,
    )
    trials = data.draw(st.integers(1, 40))
    mixed = grown(measured(old, trials, lambda i: -float(i)), new.sample(np.random.default_rng(1), 20))
    check_fit(new, make(new).suggest(mixed, 4, np.random.default_rng(0)), 4)


@every_searcher
@pytest.mark.parametrize("trials", [1, 100, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("value", [0.5, math.nan])
def test_long_and_flat_histories(make: Make, trials: int, value: float) -> None:
    space = Space(lr=Float(1e-5, 1e-1, log=True), optimizer=Choice(["adam", "sgd"]))
    configs = space.sample(np.random.default_rng(0), trials)
    suggested = make(space).suggest(grown(History(), configs, value), 3, np.random.default_rng(1))
    assert len(set(keys(suggested))) == 3


@every_free_searcher
def test_a_wide_conditional_space(make: Make) -> None:
    space = wide(24)
    for trials in (1, 60):
        history = measured(space, trials, lambda i: math.cos(i))
        configs = make(space).suggest(history, 4, np.random.default_rng(1))
        check_fit(space, configs, 4)


@every_searcher
def test_many_trials_in_flight_at_once(make: Make) -> None:
    history = measured(MIXED, 20, lambda i: float(i % 7))
    waiting = [
        TrialRecord(20 + i, c, Status.TRAINING) for i, c in enumerate(MIXED.sample(np.random.default_rng(5), 64))
    ]
    configs = make(MIXED).suggest(History((*history.trials, *waiting)), 5, np.random.default_rng(1))
    check_fit(MIXED, configs, 5)
    if make(MIXED).adaptive:
        assert len({*keys(configs), *(t.config.key() for t in waiting)}) == 69
