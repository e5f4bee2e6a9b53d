from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.schedule.hyperband import Hyperband, brackets
from rheostat.search.random import Random
from rheostat.types import Continue, Start
from tests.schedule.test_asha import Algorithm2
from tests.schedule.test_contract import SPACE, Simulation


def test_the_brackets_of_the_paper() -> None:
    """Li et al. 2018, table 1: R = 81, eta = 3."""
    table = [
        (81, (1, 3, 9, 27, 81)),
        (34, (3, 9, 27, 81)),
        (15, (9, 27, 81)),
        (8, (27, 81)),
        (5, (81,)),
    ]
    assert [(bracket.trials, bracket.rungs) for bracket in brackets(81, 3)] == table


@pytest.mark.parametrize(("max_epochs", "factor"), [(1, 3), (2, 3), (3, 3), (30, 3), (243, 3), (64, 2), (100, 4)])
def test_any_brackets_follow_algorithm_1(max_epochs: int, factor: int) -> None:
    s_max = max(s for s in range(12) if factor**s <= max_epochs)
    found = brackets(max_epochs, factor)
    assert len(found) == s_max + 1
    for s, bracket in zip(range(s_max, -1, -1), found, strict=True):
        assert bracket.trials == int(np.ceil((s_max + 1) * factor**s / (s + 1)))
        assert bracket.rungs == tuple(int(max_epochs * factor**i / factor**s) for i in range(s + 1))


def test_the_pattern_repeats_and_is_mixed() -> None:
    scheduler = Hyperband(Random(SPACE), None, 81)
    turn = [scheduler.bracket(number).trials for number in range(143)]
    assert Counter(turn) == {81: 81, 34: 34, 15: 15, 8: 8, 5: 5}
    assert [scheduler.bracket(number).trials for number in range(143, 286)] == turn
    for begun in range(1, 144):  # in any beginning of the turn every bracket has its share, but for a trial
        for trials, seen in Counter(turn[:begun]).items():
            assert abs(seen - begun * trials / 143) <= 1.5


def test_a_new_trial_gets_the_grace_of_its_bracket() -> None:
    scheduler = Hyperband(Random(SPACE), None, 81)
    sim = Simulation(scheduler, 81, places=143, seed=0)
    graces = Counter(a.until_epoch for a in sim.decide() if isinstance(a, Start))
    assert graces == {1: 81, 3: 34, 9: 15, 27: 8, 81: 5}


@settings(max_examples=40)
@given(
    max_epochs=st.integers(1, 30),
    factor=st.integers(2, 4),
    places=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
def test_every_bracket_is_successive_halving_of_its_own_trials(
    max_epochs: int, factor: int, places: int, seed: int
) -> None:
    scheduler = Hyperband(Random(SPACE), 120, max_epochs, factor)
    paper = {bracket: Algorithm2(bracket.rungs, factor) for bracket in scheduler.brackets}
    sim = Simulation(scheduler, max_epochs, places, seed)
    while (assignments := sim.decide()) or sim.training:
        free = places - len(sim.training)
        expected = [job for halving in paper.values() for job in halving.promotable()]
        found = [(a.trial, a.until_epoch) for a in assignments if isinstance(a, Continue)]
        assert set(found) <= set(expected)
        highest_first = sorted((until_epoch for _, until_epoch in expected), reverse=True)
        assert [until_epoch for _, until_epoch in found] == highest_first[:free]
        for number, until_epoch in found:
            halving = paper[scheduler.bracket(number)]
            halving.promoted[halving.rungs.index(until_epoch) - 1].add(number)
        sim.apply(assignments)
        for trial in sim.some_training():
            sim.settle(trial)
            paper[scheduler.bracket(trial.number)].report(trial.number, trial.until_epoch)
    assert len(sim.trials) == 120
