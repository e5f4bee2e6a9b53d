"""Histories as curves: what is kept between two readings changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rheostat.schedule.curve_reader import CurveReader
from rheostat.space import Float, Space
from rheostat.types import Config, History, Status, TrialRecord

SPACE = Space(lr=Float(1e-4, 1.0, log=True))


def trial(number, values, status=Status.PAUSED):
    return TrialRecord(number, Config(lr=10 ** -(4 * (number % 97) / 97)), status, tuple(values), len(values))


def assert_read_as_anew(reader, history):
    fresh = CurveReader(SPACE).read(history)
    kept = reader.read(history)
    for field in fresh.__slots__:
        np.testing.assert_array_equal(getattr(kept, field), getattr(fresh, field), err_msg=field)


def test_the_first_trials_are_not_forgotten_when_room_is_made_for_more():
    reader, trials = CurveReader(SPACE), []
    for number in range(300):
        trials.append(trial(number, [1.0 + number]))
        assert_read_as_anew(reader, History(tuple(trials)))


@given(st.lists(st.tuples(st.integers(0, 150), st.floats(allow_nan=True) | st.just(math.inf)), max_size=60))
def test_any_growth_of_a_history_is_read_as_if_it_were_new(steps):
    reader, trials = CurveReader(SPACE), []
    for many, value in steps:
        trials += [trial(len(trials) + i, []) for i in range(many)]
        if trials:
            at = int(many * 7) % len(trials)
            trials[at] = replace(trials[at], values=(*trials[at].values, value))
        assert_read_as_anew(reader, History(tuple(trials)))


def test_a_reader_may_be_asked_for_another_history():
    reader = CurveReader(SPACE)
    for many in (100, 3, 200, 0, 70):
        assert_read_as_anew(reader, History(tuple(trial(i, [many + i]) for i in range(many))))
