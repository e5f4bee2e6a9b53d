"""What every searcher promises, whatever the space and whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.search.base import Searcher
from rheostat.search.grid import Grid
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Float, Space
from rheostat.types import Config, History, Status, TrialRecord
from tests.spaces import spaces

SEARCHERS: dict[str, Callable[[Space], Searcher]] = {
    "grid": lambda space: Grid(space, points=3, seed=1),
    "random": Random,
    "sobol": lambda space: Sobol(space, seed=1),
}

every_searcher = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS.keys())
contract = settings(max_examples=40)


finite_spaces = spaces(max_size=4).map(
    lambda space: Space(
        {n: part for n, part in (space.tuned | space.fixed).items() if not isinstance(part, Float) or part.step}
    )
)
values = st.lists(st.sampled_from([0.5, 0.1, -2.0, 7.5, math.nan, math.inf]), max_size=4).map(tuple)
outcomes = st.tuples(st.sampled_from(Status), values)


@st.composite
def histories(draw: st.DrawFn, space: Space) -> History:
    """Trials of the space with any outcome, with duplicates and equal values."""
    seed = draw(st.integers(0, 5))
    configs = space.sample(np.random.default_rng(seed), 4)
    picked = draw(st.lists(st.tuples(st.sampled_from(configs), outcomes), max_size=12))
    return History(
        tuple(
            TrialRecord(i, config, status, values, len(values)) for i, (config, (status, values)) in enumerate(picked)
        )
    )


def grown(history: History, configs: Sequence[Config], value: float = 0.5) -> History:
    """The history with these configurations trained for an epoch."""
    first = len(history.trials)
    more = (TrialRecord(first + i, c, Status.DONE, (value,), 1) for i, c in enumerate(configs))
    return History((*history.trials, *more))


def keys(configs: Sequence[Config]) -> list[str]:
    return [config.key() for config in configs]


@every_searcher
@contract
@given(data=st.data(), n=st.integers(0, 6))
def test_suggestions_fit_the_space(make: Callable[[Space], Searcher], data: st.DataObject, n: int) -> None:
    space = data.draw(spaces(max_size=5))
    history = data.draw(histories(space))
    configs = make(space).suggest(history, n, np.random.default_rng(0))
    assert len(configs) <= n
    for config in configs:
        assert space.complete(config).key() == config.key()


@every_searcher
@contract
@given(data=st.data())
def test_suggestions_depend_on_the_history_and_the_random_numbers_alone(
    make: Callable[[Space], Searcher], data: st.DataObject
) -> None:
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
@contract
@given(data=st.data())
def test_a_batch_equals_single_suggestions_where_results_change_nothing(
    make: Callable[[Space], Searcher], data: st.DataObject
) -> None:
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
def test_a_finite_space_is_tried_without_repetition(make: Callable[[Space], Searcher], data: st.DataObject) -> None:
    space = data.draw(finite_spaces)
    history = data.draw(histories(space))
    tried = set(keys([trial.config for trial in history.trials]))
    configs = make(space).suggest(history, 30, np.random.default_rng(0))
    assert len(set(keys(configs))) == len(configs)
    assert not tried & set(keys(configs))


@every_searcher
@pytest.mark.parametrize("trials", [1, 100, 10_000])
@pytest.mark.parametrize("value", [0.5, math.nan])
def test_long_and_flat_histories(make: Callable[[Space], Searcher], trials: int, value: float) -> None:
    space = Space(lr=Float(1e-5, 1e-1, log=True), optimizer=Choice(["adam", "sgd"]))
    configs = space.sample(np.random.default_rng(0), trials)
    suggested = make(space).suggest(grown(History(), configs, value), 3, np.random.default_rng(1))
    assert len(set(keys(suggested))) == 3
