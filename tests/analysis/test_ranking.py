"""Ranking trials that trained for different numbers of epochs."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.analysis.ranking import share_beaten
from rheostat.types import Config, Status, TrialRecord

value = st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan, math.inf])
curves = st.lists(st.tuples(st.lists(value, min_size=1, max_size=5), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(curves)
def test_is_the_share_of_pairs_won_within_the_epochs_that_both_trained(curves):
    trials = [
        TrialRecord(i, Config(), Status.INFEASIBLE if diverged else Status.DONE, tuple(values))
        for i, (values, diverged) in enumerate(curves)
    ]

    def best(trial, epochs):
        finite = [v for v in trial.values[:epochs] if not math.isnan(v)]
        return math.inf if trial.status is Status.INFEASIBLE else min(finite, default=math.inf)

    def wins(one, other):
        ends = [t.epochs for t in (one, other) if t.status is not Status.INFEASIBLE]
        a, b = (best(t, min(ends, default=1)) for t in (one, other))
        return 1.0 if a < b else 0.5 if a == b else 0.0

    expected = [sum(wins(one, other) for other in trials) / len(trials) for one in trials]
    np.testing.assert_allclose(share_beaten(trials), expected)


def test_takes_no_trials():
    assert share_beaten([]).shape == (0,)
