"""The test of a comparison: against scipy, brute force and known answers; its level and power in simulated studies."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.comparison_level import World, right_rate, wrong_rate
from rheostat.analysis.comparison import (
    Repeats,
    Verdict,
    difference,
    estimate,
    examples_variance,
    holm,
    judge,
    ranked,
    tuning_variance,
)

NAN = math.nan
STUDIES = 200
values = st.floats(0.01, 1.0).map(lambda v: round(v, 6))
samples = st.integers(3, 6).flatmap(
    lambda n: st.lists(st.lists(values, min_size=n, max_size=n), min_size=4, max_size=4)
)


def verdicts(arms: Any, **settings: Any) -> list[str]:
    return [str(judgement.verdict) for judgement in judge(arms, **{"reference": 0, **settings})]


# -- level and power -----------------------------------------------------------------------------------------

EQUAL = [
    World(trials=4, curvature=10, seeds=3),
    World(trials=8, curvature=100, seeds=5),
    World(trials=32, curvature=1000, seeds=5),
    World(trials=8, curvature=10, seeds=5, test=True),
    World(trials=8, curvature=1000, seeds=5, optima="shifted"),
    World(trials=8, curvature=30, seeds=3, examples=360),
]
MORE = [
    World(trials=trials, curvature=curvature, seeds=seeds, optima=optima, test=test)
    for trials, curvature, seeds, optima, test in itertools.product(
        (4, 12, 32), (10, 1000), (3, 5), ("equal", "shifted"), (False, True)
    )
]
MORE += [World(curvature=c, correlation=0.7) for c in (0, 10, 100)]
MORE += [World(curvature=1000, points="separate"), World(curvature=30, seeds=4, arms=4)]


@pytest.mark.parametrize("world", EQUAL, ids=range(len(EQUAL)))
def test_equal_arms_are_called_different_no_oftener_than_the_level_says(world: World) -> None:
    _, rate = wrong_rate(world, STUDIES)
    assert rate <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("world", MORE, ids=range(len(MORE)))
def test_so_they_are_in_a_grid_of_worlds(world: World) -> None:
    _, rate = wrong_rate(world, STUDIES, seed=1)
    assert rate <= 0.05


def test_a_paired_t_test_over_seeds_alone_would_not_hold_the_level() -> None:
    plain, ours = wrong_rate(World(trials=32, curvature=100, seeds=10), STUDIES)
    assert plain > 0.1 and ours <= 0.05


@pytest.mark.parametrize(("gain", "least"), [(3.0, 0.6), (5.0, 0.95)])
def test_a_known_difference_is_found(gain: float, least: float) -> None:
    """Differences in units of the standard deviation between seeds, with five seeds."""
    _, found = right_rate(World(curvature=30, gains=(0.0, gain)), STUDIES)
    assert found >= least


# -- against other ways to the same numbers ------------------------------------------------------------------


@given(samples)
def test_without_tuning_it_is_the_paired_t_test(sample: list[list[float]]) -> None:
    one, other = np.array(sample[0]), np.array(sample[1])
    found = difference([Repeats.of(one)], [Repeats.of(other)])
    assert found is not None
    if np.ptp(one - other) > 1e-3:
        expected = stats.ttest_rel(one, other)
        low, high = expected.confidence_interval(0.95)
        if found.seeds > 1.0001 * stats.sem(one - other):  # few repeats agreed by chance: see `resolution`
            assert found.p >= expected.pvalue
        else:
            assert found.p == pytest.approx(expected.pvalue)
            assert (found.low, found.high) == pytest.approx((low, high))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """Marcus, Peritz and Gabriel 1976: reject what every intersection that holds it rejects."""
    places = range(len(p_values))
    subsets = [s for n in range(1, len(p_values) + 1) for s in itertools.combinations(places, n)]
    bonferroni = {s: min(len(s) * min(p_values[i] for i in s), 1.0) for s in subsets}
    assert holm(p_values) == pytest.approx([max(bonferroni[s] for s in subsets if i in s) for i in places])


def test_the_noise_of_examples_is_the_component_of_blocks() -> None:
    """Over many simulated layouts its mean is the variance that the blocks were drawn with."""
    rng = np.random.default_rng(0)
    seeds, parts, spread = 5, 10, 0.7
    found = []
    for _ in range(3000):
        layout = (
            rng.normal(size=(seeds, 1)) + spread * rng.normal(size=(1, parts)) + 0.3 * rng.normal(size=(seeds, parts))
        )
        found.append(examples_variance(layout))
    assert np.mean(found) == pytest.approx(spread**2 / parts, rel=0.03)


def test_blocks_that_differ_only_by_chance_add_almost_nothing() -> None:
    rng = np.random.default_rng(0)
    found = [examples_variance(rng.normal(size=(5, 10))) for _ in range(500)]
    assert np.mean(found) < 0.3 * 1 / 50  # of the variance of the mean itself
    assert examples_variance(np.empty((5, 0))) == 0 and examples_variance(np.full((5, 10), NAN)) == 0


# -- properties ----------------------------------------------------------------------------------------------


@given(samples, st.floats(0.5, 20), st.floats(-5, 5))
def test_units_do_not_matter(sample: list[list[float]], scale: float, shift: float) -> None:
    def arms(by: float, plus: float) -> list[list[Repeats]]:
        a, b, c, d = (by * np.array(row) + plus for row in sample)
        return [[Repeats.of(a), Repeats.of(b)], [Repeats.of(c), Repeats.of(d)]]

    one, other = (judge(arms(*units), 0)[1].difference for units in ((1.0, 0.0), (scale, shift)))
    assert one is not None and other is not None
    assert other.p == pytest.approx(one.p, rel=1e-4, abs=1e-9)
    assert other.value == pytest.approx(scale * one.value, abs=1e-9)


@given(samples)
def test_better_for_one_is_worse_for_the_other(sample: list[list[float]]) -> None:
    arms = [[Repeats.of(sample[0]), Repeats.of(sample[1])], [Repeats.of(sample[2]), Repeats.of(sample[3])]]
    opposite = {"better": "worse", "worse": "better", "tied": "tied", "reference": "reference"}
    assert opposite[verdicts(arms)[1]] == verdicts(arms, reference=1)[0]


# -- cases ---------------------------------------------------------------------------------------------------


def test_an_arm_with_a_far_second_is_less_sure() -> None:
    best = Repeats.of([0.20, 0.21, 0.19, 0.20])
    near, far = Repeats.of([0.21, 0.20, 0.21, 0.20]), Repeats.of([0.40, 0.41, 0.39, 0.42])
    assert tuning_variance([best]) == 0
    assert tuning_variance([best, near]) < 1e-4 < tuning_variance([best, far]) == pytest.approx(0.205**2 / 4)
    assert estimate([best, far]).high > estimate([best, near]).high


def test_finalists_that_cannot_be_told_apart_count_for_more() -> None:
    """With equal validation values either may be chosen, however far apart they are judged."""
    one = Repeats.of([0.2, 0.3], judged=[0.2, 0.2])
    other = Repeats.of([0.3, 0.2], judged=[0.3, 0.3])
    assert tuning_variance([one, other]) == pytest.approx(0.75 * 0.1**2)


def test_equal_arms_to_the_last_bit_are_tied() -> None:
    arm = [Repeats.of([0.2, 0.25, 0.3]), Repeats.of([0.3, 0.2, 0.3])]
    found = judge([arm, arm], 0)[1]
    assert found.verdict is Verdict.TIED and found.difference is not None and found.difference.p == 1.0


def test_the_finalist_with_the_best_validation_is_judged() -> None:
    first = Repeats.of([0.3, 0.31], judged=[0.1, 0.1])
    second = Repeats.of([0.2, 0.21], judged=[0.5, 0.6])
    assert ranked([first, second]) == (1, 0)
    assert judge([[first, second], [first]], 1)[0].estimate.value == pytest.approx(0.55)


def test_repeats_that_agree_by_chance_are_no_certainty() -> None:
    """Of 100 examples one is wrong more in each of three repeats: not significant, though there is no variance."""
    one, other = Repeats.of([0.03, 0.04, 0.03]), Repeats.of([0.04, 0.05, 0.04])
    assert verdicts([[one], [other]]) == ["reference", "tied"]
    assert verdicts([[one], [Repeats.of([0.09, 0.10, 0.09])]]) == ["reference", "worse"]


def test_diverged_repeats_are_left_out_and_cost_the_verdict() -> None:
    steady = Repeats.of([0.30, 0.31, 0.30, 0.31])
    broken = Repeats.of([NAN, 0.10, 0.11, 0.10])
    found = judge([[steady], [broken]], 0)[1]
    assert found.verdict is Verdict.TIED and found.estimate.value == pytest.approx(0.31 / 3)
    assert found.difference is not None and found.difference.p < 0.05
    assert verdicts([[steady], [Repeats.of([NAN, 0.50, 0.51, 0.50])]]) == ["reference", "worse"]
    assert ranked([broken, steady]) == (1, 0)


def test_an_arm_without_values_diverged() -> None:
    steady = [Repeats.of([0.30, 0.31, 0.30])]
    for nothing in ([], [Repeats.of([NAN, NAN, NAN])], [Repeats.of([0.3, NAN, NAN])]):
        assert verdicts([steady, nothing]) == ["reference", "diverged"]
    assert verdicts([[], steady]) == ["diverged", "diverged"]
    assert math.isnan(judge([steady, []], 0)[1].estimate.value)


def test_many_arms_need_more_than_one() -> None:
    """The same difference that is beyond chance beside one other arm is not beside twenty."""
    base, wobble = np.array([0.30, 0.31, 0.29, 0.30, 0.31]), np.array([0.01, -0.01, 0.0, 0.01, -0.01])
    arm, others = Repeats.of(base - 0.02 + wobble), [[Repeats.of(base + wobble)] for _ in range(19)]
    few, many = judge([[Repeats.of(base)], [arm]], 0)[1], judge([[Repeats.of(base)], [arm], *others], 0)[1]
    assert few.difference is not None and many.difference is not None
    assert few.verdict is Verdict.BETTER and many.verdict is Verdict.TIED
    assert many.difference.p == few.difference.p and many.difference.adjusted_p == pytest.approx(20 * few.difference.p)
