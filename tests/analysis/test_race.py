"""Races: how often equal finalists are told apart, how often unequal ones are, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from rheostat.analysis.race import ALONE, LOOKS, Race, beaten, looks_within, race, welch

Array = NDArray[np.float64]
Draw = Callable[[int, int, np.random.Generator], Array]  # finalist, how many
LEVEL = 0.05
SLOW = pytest.mark.slow


def run(draw: Draw, finalists: int, budget: int, rng: np.random.Generator) -> Race:
    drawn = [draw(i, LOOKS[-1], rng) for i in range(finalists)]
    return race(finalists, budget, LEVEL, lambda left, count: [drawn[i][:count] for i in left])


def normal(i: int, n: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal(n)


def one_noisy(i: int, n: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal(n) * (3 if i == 0 else 1)


def lopsided(i: int, n: int, rng: np.random.Generator) -> Array:
    return rng.exponential(size=n)


def shares(i: int, n: int, rng: np.random.Generator) -> Array:
    return rng.binomial(360, 0.03, n) / 360


@pytest.mark.parametrize("draw", [normal, one_noisy, lopsided, shares])
@pytest.mark.parametrize(
    ("finalists", "budget"), [(2, 6), (3, 18), pytest.param(2, 24, marks=SLOW), pytest.param(5, 60, marks=SLOW)]
)
def test_equal_finalists_are_called_different_at_most_as_often_as_the_level_says(
    draw: Draw, finalists: int, budget: int
) -> None:
    rng, races = np.random.default_rng(3), 250
    wrong = sum(bool(run(draw, finalists, budget, rng).dropped) for _ in range(races))
    assert wrong <= LEVEL * races + 2 * (LEVEL * (1 - LEVEL) * races) ** 0.5  # two standard errors of the count


def test_plain_tests_at_every_look_would_not_hold_the_level() -> None:
    """Otherwise the test above could not fail."""
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(60):
        drawn = [rng.standard_normal(LOOKS[-1]) for _ in range(5)]
        wrong += any(
            stats.ttest_ind(min(some, key=np.mean), max(some, key=np.mean)).pvalue < LEVEL
            for look in LOOKS
            if (some := [values[:look] for values in drawn])
        )
    assert wrong > 0.2 * 60


def test_a_better_finalist_wins_and_sooner_the_better_it_is() -> None:
    rng = np.random.default_rng(5)
    found = {
        gap: [run(lambda i, n, r, g=gap: r.standard_normal(n) + g * (i > 0), 3, 36, rng) for _ in range(30)]
        for gap in (2.0, 8.0)
    }
    won = {gap: sum(one.left == (0,) for one in races) for gap, races in found.items()}
    assert won[2.0] > 15 and won[8.0] == 30
    assert not any(0 in one.dropped for races in found.values() for one in races)
    trained = {gap: np.mean([one.trained for one in races]) for gap, races in found.items()}
    assert trained[8.0] < 15 < trained[2.0] <= 36


@given(st.integers(1, 6), st.integers(6, 80), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_a_race_keeps_within_its_budget_and_loses_nobody(finalists: int, budget: int, gap: int, seed: int) -> None:
    rng, asked = np.random.default_rng(seed), [0] * finalists
    drawn = [rng.standard_normal(LOOKS[-1]) + gap * i for i in range(finalists)]

    def repeat(left: Sequence[int], count: int) -> list[Array]:
        for i in left:
            assert count > asked[i]
            asked[i] = count
        return [drawn[i][:count] for i in left]

    finalists_there = min(finalists, budget // LOOKS[0])
    found = race(finalists_there, budget, LEVEL, repeat)
    assert found.trained == sum(asked) <= budget and found.finished
    assert sorted([*found.left, *found.dropped]) == list(range(finalists_there)) and found.left
    assert all(asked[i] == found.repeats for i in found.left)
    assert all(asked[i] == look and look in LOOKS for i, look in found.dropped.items())
    if len(found.left) == 1:
        assert found.repeats >= min(ALONE, budget) or found.trained == budget


def test_a_race_that_is_interrupted_says_so() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    found = race(2, 12, LEVEL, lambda left, count: None if count > 3 else [values[:count]] * 2)
    assert (found.finished, found.left, found.repeats, found.trained) == (False, (0, 1), 3, 6)


def test_looks_are_those_that_the_budget_can_pay() -> None:
    assert [looks_within(2, budget) for budget in (6, 9, 10, 16, 24, 100)] == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_welch_agrees_with_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.standard_normal(4), 3 * rng.standard_normal(7) + 1
    assert welch(one, other) == pytest.approx(stats.ttest_ind(one, other, equal_var=False).pvalue)


def test_agreement_by_chance_is_no_certainty() -> None:
    """Three repeats that agree to the last example are known to half an example."""
    one, other = np.full(3, 0.02), np.full(3, 0.03)
    assert welch(one, other) == 0.0 and 0.005 < welch(one, other, 0.01) < 0.05
    assert welch(one, one) == 1.0


def test_who_diverges_is_beaten_and_beats_nobody_that_did_not() -> None:
    nan = np.nan
    good, better = np.array([0.30, 0.31, 0.30]), np.array([0.10, 0.11, nan])
    assert beaten([good, better], LEVEL) == [False, False]
    assert beaten([good, np.array([nan, nan, 0.1])], LEVEL) == [False, True]
    assert beaten([np.full(3, nan), np.full(3, nan)], LEVEL) == [False, False]
    assert beaten([good + 1, better[[2, 0, 1]], good], LEVEL) == [True, False, False]
