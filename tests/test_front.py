"""Which points no other dominates, and the hypervolume, against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.errors import SettingError
from rheostat.front import front, hypervolume, non_dominated
from rheostat.types import Config, Status, TrialRecord


@st.composite
def clouds(draw: st.DrawFn, least: int = 0, most: int = 12) -> np.ndarray:
    """Points of 1 to 4 objectives; many of them share values."""
    m = draw(st.integers(1, 4))
    value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(-1, 2)
    rows = draw(st.lists(st.lists(value, min_size=m, max_size=m), min_size=least, max_size=most))
    return np.array(rows, dtype=float).reshape(-1, m)


def dominates(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one <= other).all() and (one < other).any())


@given(clouds(most=25))
def test_the_front_is_what_no_other_point_dominates(points: np.ndarray) -> None:
    defined = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == defined


def by_inclusion_and_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume of a union of boxes: the sum over all subsets of the volume that they share, with its sign."""
    inside = [point for point in points if (point < reference).all()]
    total = 0.0
    for size in range(1, len(inside) + 1):
        for some in itertools.combinations(inside, size):
            total -= (-1) ** size * float(np.prod(reference - np.max(some, axis=0)))
    return total


@given(clouds(most=8))
def test_the_hypervolume_is_that_of_a_union_of_boxes(points: np.ndarray) -> None:
    reference = np.full(points.shape[1], 1.25)
    expected = by_inclusion_and_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-9)


@given(clouds(least=1, most=30), st.randoms(use_true_random=False))
def test_the_hypervolume_knows_no_order_and_grows_with_every_point_of_the_front(points, random) -> None:
    reference = np.full(points.shape[1], 3.0)
    whole = hypervolume(points, reference)
    shuffled = points[random.sample(range(len(points)), len(points))]
    assert hypervolume(shuffled, reference) == pytest.approx(whole)
    better = points[0] - 0.1
    more = hypervolume(np.vstack([points, better]), reference)
    on_front = not any((other <= better).all() for other in points)
    assert more > whole if on_front else more == pytest.approx(whole)


def test_known_volumes() -> None:
    assert hypervolume(np.array([[0.0, 0.0]]), np.array([2.0, 3.0])) == 6
    assert hypervolume(np.array([[1.0, 0.0], [0.0, 1.0], [1.5, 1.5]]), np.array([2.0, 2.0])) == 3
    assert hypervolume(np.array([[3.0, 0.0]]), np.array([2.0, 2.0])) == 0
    corners = np.eye(3)  # three unit boxes less what they share
    assert hypervolume(corners, np.full(3, 2.0)) == pytest.approx(3 * 4 - 3 * 2 + 1)
    # A quarter of the circle in which the points of DTLZ2 lie: what is left of the square is 1 - pi / 4.
    angles = np.linspace(0, np.pi / 2, 1001)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    assert hypervolume(circle, np.ones(2)) == pytest.approx(1 - math.pi / 4, abs=1e-3)


def test_a_reference_needs_a_finite_number_for_each_objective() -> None:
    with pytest.raises(SettingError, match="each of the 2 objectives"):
        hypervolume(np.zeros((1, 2)), np.ones(3))
    with pytest.raises(SettingError, match="finite"):
        hypervolume(np.zeros((1, 2)), np.array([1.0, math.inf]))


def record(number: int, value: float, also: float, status: Status = Status.DONE, excess: float = -1.0) -> TrialRecord:
    return TrialRecord(number, Config(), status, (value,), 1, also=((also,),), excess=((excess,),))


def test_the_front_of_trials_leaves_out_what_may_not_be_the_best() -> None:
    trials = [
        record(0, 1.0, 5.0),
        record(1, 2.0, 4.0, Status.PAUSED),
        record(2, 2.0, 4.5),  # behind 1
        record(3, 0.1, 0.1, Status.FAILED),
        record(4, 0.1, 0.1, Status.INFEASIBLE),
        record(5, 0.1, 0.1, excess=0.5),  # breaks a limit
        record(6, 0.1, 0.1, excess=math.nan),
        record(7, 0.1, math.nan),
        record(8, math.nan, 0.1),
        TrialRecord(9, Config(), Status.TRAINING),
    ]
    assert [trial.number for trial in front(trials)] == [0, 1]
    assert front(trials[3:]) == []


def test_each_trial_counts_as_it_was_at_its_best_epoch() -> None:
    also, excess = ((1.0,), (2.0,), (0.5,)), ((1.0,), (-1.0,), (1.0,))
    trial = TrialRecord(0, Config(), Status.DONE, (3.0, 1.0, 2.0), 3, also=also, excess=excess)
    assert trial.objectives == (1.0, 2.0) and trial.keeps_limits
