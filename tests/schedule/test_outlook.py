"""What a study may still gain, against permutations, simulated tails and numerical integrals."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from rheostat.errors import SettingError
from rheostat.schedule import outlook as module
from rheostat.schedule.outlook import Outlook, enough, outlook
from rheostat.types import UNLIMITED, Config, History, Status, TrialRecord


def finished(*values: float) -> History:
    """Trials of one epoch, which is all that they train."""
    return History(tuple(TrialRecord(i, Config(x=i), Status.DONE, (v,), 1) for i, v in enumerate(values)))


def said(history: History, max_epochs: int, epochs: int | None = None) -> Outlook:
    found = outlook(history, max_epochs, epochs)
    assert found is not None
    return found


@pytest.mark.parametrize(("old", "new"), [(2, 2), (4, 1), (5, 2)])
def test_the_chance_of_any_gain_is_that_of_a_record(old: int, new: int) -> None:
    orders = list(permutations(range(old + new)))
    records = sum(min(order[old:]) < min(order[:old]) for order in orders) / len(orders)
    assert said(finished(*range(old)), 1, new).chance(0.0) == pytest.approx(records)


def test_the_chance_of_a_gain_is_that_of_values_with_an_exponential_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FACTORS", np.ones(1))
    monkeypatch.setattr(module, "WEIGHTS", np.ones(1))
    rng, scale = np.random.default_rng(0), 2.0
    values = scale * np.log(rng.random((20_000, 300)))  # the share below v is exp(v / scale)
    gains = np.maximum(values[:, :100].min(axis=1) - values[:, 100:].min(axis=1), 0)
    known = Outlook(100, 200, scale, 2.0, 0.0)
    for gain in (0.0, 0.5, 2.0, 5.0, 10.0):
        assert known.chance(gain) == pytest.approx(np.mean(gains > gain), abs=0.01)
    assert known.expected == pytest.approx(gains.mean(), rel=0.02)
    assert known.low == 0.0
    assert known.high == pytest.approx(np.quantile(gains, 0.95), rel=0.03)


outlooks = st.builds(
    Outlook,
    st.just(100),
    st.just(100),
    st.floats(1e-6, 1e6),
    st.floats(0.01, 100.0),
    st.floats(0.0, 20.0),
)


@given(outlooks)
def test_what_is_expected_is_the_integral_of_the_chances(known: Outlook) -> None:
    # In units of the widest scale; less than e^-300 lies beyond 300 of them.
    unit = known.scale * float(module.FACTORS.max())
    area, _ = quad(lambda gain: known.chance(gain * unit), 0, 300, limit=500, points=[1e-4, 1e-3, 0.01, 0.1, 1, 10])
    assert known.expected == pytest.approx(area * unit, rel=1e-5)


@given(outlooks)
def test_the_interval_holds_what_it_says(known: Outlook) -> None:
    assert 0 <= known.low <= known.high
    for level, bound in ((0.05, known.low), (0.95, known.high)):
        if bound > 0:
            assert 1 - known.chance(bound) == pytest.approx(level, abs=1e-6)
        else:
            assert 1 - known.chance(0.0) >= level


finite = st.floats(-1e6, 1e6).map(lambda v: round(v, 3))
trials = st.tuples(
    st.sampled_from(list(Status)), st.lists(finite | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=12)
)
histories = st.lists(trials, max_size=20).map(
    lambda some: History(tuple(TrialRecord(i, Config(x=i), s, tuple(v), len(v)) for i, (s, v) in enumerate(some)))
)


@given(histories, st.sampled_from([1, 5, 12, 100, UNLIMITED]), st.integers(1, 500), st.integers(1, 500))
def test_whatever_trials_did(history: History, max_epochs: int, epochs: int, more: int) -> None:
    known = outlook(history, max_epochs, epochs)
    values = {min(v) for t in history.trials if (v := [v for v in t.values if math.isfinite(v)])}
    assert (known is None) == (len(values) < 2)
    if known is None:
        return
    assert known == outlook(history, max_epochs, epochs)
    assert known.spent == sum(len(t.values) for t in history.trials)
    assert 0 < known.expected < math.inf and 0 <= known.low <= known.high < math.inf
    assert 0 <= known.share_begun < 1
    chances = [known.chance(gain) for gain in (0.0, 0.1, 10.0, 1e9)]
    assert chances == sorted(chances, reverse=True) and chances[-1] >= 0 and chances[0] < 1
    longer = said(history, max_epochs, epochs + more)
    assert longer.expected > known.expected and longer.chance(1.0) >= known.chance(1.0) and longer.high >= known.high


@given(histories, st.sampled_from([1, 12]), st.sampled_from([1e-3, 1.0, 1e3]), st.floats(-100, 100))
def test_gains_have_the_units_of_the_metric(history: History, max_epochs: int, unit: float, shift: float) -> None:
    known = outlook(history, max_epochs)
    if known is not None:
        moved = History(
            tuple(replace(t, values=tuple(unit * (v + round(shift, 3)) for v in t.values)) for t in history.trials)
        )
        other = said(moved, max_epochs)
        assert other.expected == pytest.approx(unit * known.expected, rel=1e-3)
        assert other.chance(unit * 2.0) == pytest.approx(known.chance(2.0), abs=1e-3)


def test_nothing_is_said_of_what_has_no_scale() -> None:
    assert outlook(History(), 5) is None
    assert outlook(finished(0.5), 1) is None
    assert outlook(finished(0.5, 0.5, 0.5, math.nan, math.inf), 1) is None


def test_curves_that_go_on_promise_more_and_most_where_the_best_is_short() -> None:
    def best_after(epochs: int, status: Status) -> Outlook:
        best = TrialRecord(0, Config(x=0), status, (*[0.9] * (epochs - 1), 0.1), epochs)
        others = tuple(TrialRecord(i, Config(x=i), Status.CUT, (0.1 + i / 10,) * (41 - epochs), 1) for i in (1, 2))
        return said(History((best, *others)), 40)

    short, long = best_after(2, Status.PAUSED), best_after(30, Status.PAUSED)
    ended = best_after(40, Status.DONE)
    assert short.expected > long.expected > ended.expected
    assert short.share_begun > long.share_begun > ended.share_begun == 0.0


def test_a_copy_counts_only_what_it_trained_itself() -> None:
    parent = TrialRecord(0, Config(x=0), Status.PAUSED, (0.5, 0.4, 0.3), 3)
    child = TrialRecord(1, Config(x=1), Status.PAUSED, (0.5, 0.4, 0.3, 0.2), 4, parent=0, born=3)
    assert said(History((parent, child)), 9).spent == 4


def test_less_than_one_epoch_is_refused() -> None:
    with pytest.raises(SettingError, match="epochs=0"):
        outlook(finished(0.1, 0.2), 1, 0)


def test_enough_is_where_as_many_epochs_again_hardly_gain() -> None:
    history = finished(*np.linspace(1, 2, 21).tolist())
    known = said(history, 1)
    edge = next(gain for gain in np.linspace(0, 10, 1001).tolist() if known.chance(gain) < 0.05)
    assert enough(history, 1, edge) == known
    assert enough(history, 1, edge - 0.01) is None
    assert enough(finished(0.5, 0.5), 1, 1e9) is None  # nothing is known
    assert enough(history, 1, 0.0) is None


def test_beginnings_alone_are_never_enough() -> None:
    def begun(trials: int) -> History:
        return History(tuple(TrialRecord(i, Config(x=i), Status.PAUSED, (1 + i / 20,), 1) for i in range(trials)))

    assert enough(begun(19), 20, 1e9) is None
    assert enough(begun(20), 20, 1e9) is not None
    assert enough(begun(2), UNLIMITED, 1e9) is not None
