from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.schedule.asha import ASHA
from rheostat.schedule.pasha import PASHA, is_stable, noise, top_rung
from rheostat.search.random import Random
from rheostat.types import Config, History, Start, Status, TrialRecord
from tests.schedule.test_contract import SPACE

CONFIG = Config(lr=0.1, momentum=0.0, optimizer="sgd")
RUNGS = (1, 3, 9, 27)


def trial(number: int, *values: float, until_epoch: int | None = None) -> TrialRecord:
    return TrialRecord(number, CONFIG, Status.PAUSED, values, until_epoch or len(values))


def test_noise_by_hand() -> None:
    """Of three pairs only the first two curves cross and cross back; the third crosses each of them once."""
    a = [1.0, 0.5, 0.9, 0.40]
    b = [0.9, 0.6, 0.8, 0.43]
    c = [1.1, 0.9, 0.7, 0.10]
    assert noise([a, b, c]) == pytest.approx(0.03)
    assert noise([a, c]) == 0.0
    d = [0.9, 0.6, 0.8, 0.45]  # with a: 0.05; with b it is equal until the last epoch
    assert noise([a, b, c, d]) == pytest.approx(np.percentile([0.03, 0.05], 90))


def test_two_crossings_are_needed_and_the_last_epoch_counts() -> None:
    assert noise([[1.0, 2.0], [2.0, 1.0]]) == 0.0  # too short to cross twice
    assert noise([[1, 2, 2], [2, 1, 1]]) == 0.0
    assert noise([[1, 2, 1], [2, 1, 3]]) == 2.0
    assert noise([[1, 2, 1, 5], [2, 1, 3, 1]]) == 4.0
    assert noise([[1, 2, 1, 3], [2, 1, 3, 3]]) == 0.0  # in the end they are equal: no order
    assert noise([[1, math.nan, 1], [2, 1, 3]]) == noise([[1, math.inf, 1], [2, math.inf, 3]]) == 0.0


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), max_size=8))
def test_noise_is_that_of_the_definition(curves: list[list[int]]) -> None:
    distances = []
    for a, b in itertools.combinations(curves, 2):
        j = 4
        for one, other in ((a, b), (b, a)):
            pairs = itertools.combinations(range(j), 2)
            if one[j] > other[j] and any(one[k] < other[k] and one[i] > other[i] for i, k in pairs):
                distances.append(abs(one[j] - other[j]))
    assert noise(curves) == (pytest.approx(np.percentile(distances, 90)) if distances else 0.0)


def test_the_order_is_compared_softly() -> None:
    """Three trials, of which two change places: 0.05 apart in the lower rung, with noise of 0.03, then 0.06."""
    stable = [trial(0, 0.5, 0.45, 0.4), trial(1, 0.6, 0.55, 0.5), trial(2, 0.7, 0.65, 0.6)]
    assert is_stable(stable, 1, 3)
    swapped = [trial(0, 0.55, 0.5, 0.50), trial(1, 0.6, 0.55, 0.4), trial(2, 0.7, 0.65, 0.6)]
    assert not is_stable(swapped, 1, 3)
    noisy = [trial(3, 0.90, 0.99, 0.90), trial(4, 0.91, 0.98, 0.96)]  # cross and cross back: 0.06 apart in the end
    assert is_stable([*swapped, *noisy], 1, 3)
    quiet = [trial(3, 0.90, 0.99, 0.90), trial(4, 0.91, 0.98, 0.93)]
    assert not is_stable([*swapped, *quiet], 1, 3)


def test_what_is_not_in_both_rungs_is_not_compared() -> None:
    ranked = [trial(0, 0.5, 0.45, 0.4), trial(1, 0.6, 0.55, 0.5)]
    diverged = trial(2, 0.1, 0.1, math.nan)
    cancelled = TrialRecord(3, CONFIG, Status.CANCELLED, (0.9, 0.1, 0.1), 3)
    assert is_stable([*ranked, diverged, cancelled, trial(4, 0.01), trial(5, 0.9, 0.01)], 1, 3)
    assert is_stable([], 1, 3)


def test_a_rung_is_allowed_when_the_order_changes_and_stays_when_it_is_used() -> None:
    assert top_rung([], RUNGS) == 1
    assert top_rung([], RUNGS[:1]) == 0
    changed = [trial(0, 0.5, 0.5, 0.4), trial(1, 0.45, 0.45, 0.45)]
    assert top_rung(changed, RUNGS) == 2
    assert top_rung([*changed[:1], trial(1, 0.6, 0.5, 0.5)], RUNGS) == 1
    training = TrialRecord(0, CONFIG, Status.TRAINING, (0.3,) * 3, 9)
    assert top_rung([training, trial(1, 0.6, 0.5, 0.5)], RUNGS) == 2
    crossed = [trial(0, *[0.5] * 3, *[0.2] * 6), trial(1, *[0.4] * 3, *[0.3] * 6)]  # after 3 and before 9 epochs
    assert top_rung(crossed, RUNGS) == 3


def epochs(scheduler: ASHA | PASHA, late: float) -> tuple[int, int]:
    """A study of 81 trials, one at a time: the epochs paid for, and the longest trial.

    Curves are q + late (1 - q) / epoch, so where `late` is above 1 the best begin as the worst, until epoch `late`.
    """
    trials: list[TrialRecord] = []
    while work := scheduler.next(History(tuple(trials)), 1, np.random.default_rng(len(trials))):
        for assignment in work:
            number = len(trials) if isinstance(assignment, Start) else assignment.trial
            if isinstance(assignment, Start):
                trials.append(trial(number))
            q = np.random.default_rng(number).random()
            trials[number] = trial(number, *(q + late * (1 - q) / e for e in range(1, assignment.until_epoch + 1)))
    return sum(t.epochs for t in trials), max(t.epochs for t in trials)


def test_with_a_stable_order_it_ends_at_a_lower_rung_than_asha() -> None:
    halving = ASHA(Random(SPACE), 81, 81)
    asha, pasha = epochs(halving, late=0.5), epochs(PASHA(halving), late=0.5)
    assert asha[1] == 81
    assert pasha[1] == 3
    assert pasha[0] < asha[0] / 2


def test_where_the_order_turns_after_the_first_rung_it_goes_on_to_the_third() -> None:
    assert epochs(PASHA(ASHA(Random(SPACE), 81, 81)), late=2.0)[1] == 9
