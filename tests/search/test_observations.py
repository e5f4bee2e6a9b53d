from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.search.observations import Observations, Observer
from rheostat.space import Choice, Float, Space
from rheostat.types import Config, History, Status, TrialRecord

SPACE = Space(
    lr=Float(0.0, 1.0), optimizer=Choice(["adam", "sgd"]), momentum=Float(0.0, 1.0, when={"optimizer": "sgd"})
)
STATUSES = list(Status)

curves = st.lists(st.sampled_from([0.1, 0.2, 0.5, 3.0, math.nan, math.inf, -math.inf]), max_size=6).map(tuple)
outcomes = st.lists(st.tuples(st.sampled_from(STATUSES), curves), max_size=25)


def history(*outcomes: tuple[Status, tuple[float, ...]]) -> History:
    rng = np.random.default_rng(0)
    trials = enumerate(zip(SPACE.sample(rng, len(outcomes)), outcomes, strict=True))
    return History(tuple(TrialRecord(i, c, status, values, len(values)) for i, (c, (status, values)) in trials))


def same(one: Observations, other: Observations) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in ("points", "values", "epochs", "epoch", "pending")
    )


def test_trials_are_compared_at_the_largest_epoch_that_enough_of_them_reached() -> None:
    paused = [(Status.PAUSED, (0.9,)), (Status.PAUSED, (0.8, 0.6)), (Status.PAUSED, (0.7, 0.5, 0.3))]
    for enough, epoch, values in [(1, 3, [0.9, 0.6, 0.3]), (2, 2, [0.9, 0.6, 0.5]), (3, 1, [0.9, 0.8, 0.7])]:
        seen = Observer(SPACE).observe(history(*paused), enough)
        assert (seen.epoch, seen.values.tolist()) == (epoch, values)
        assert seen.epochs.tolist() == np.minimum([1, 2, 3], epoch).tolist()


def test_where_no_trial_is_stopped_early_each_is_worth_its_best() -> None:
    done = [(Status.DONE, (0.9, 0.2, 0.4)), (Status.DONE, (0.5,)), (Status.CONVERGED, (0.3, 0.7))]
    seen = Observer(SPACE).observe(history(*done), enough=3)
    assert seen.values.tolist() == [0.2, 0.5, 0.3]
    assert seen.order().tolist() == [0, 2, 1]


def test_bad_ends_are_worst_cancelled_trials_nothing_and_those_in_flight_pending() -> None:
    trials = history(
        (Status.INFEASIBLE, (0.1, math.nan)),
        (Status.FAILED, ()),
        (Status.CANCELLED, (0.1,)),
        (Status.TRAINING, ()),
        (Status.TRAINING, (0.4,)),
        (Status.PAUSED, (0.5,)),
        (Status.PAUSED, (math.inf,)),
        (Status.WAITING, ()),
    )
    seen = Observer(SPACE).observe(trials, enough=10)
    assert seen.trials.tolist() == [0, 1, 4, 5, 6]
    assert seen.values.tolist() == [math.inf, math.inf, 0.4, 0.5, math.inf]
    assert seen.order().tolist() == [2, 3, 0, 1, 4]  # of equal ones the older first
    assert np.array_equal(seen.pending, [SPACE.encode(trials.trials[i].config) for i in (3, 7)], equal_nan=True)


def test_trials_that_came_further_are_better_and_diverged_ones_worst() -> None:
    seen = Observer(SPACE).observe(
        history(
            (Status.PAUSED, (0.1,)), (Status.PAUSED, (0.9, 0.8)), (Status.INFEASIBLE, ()), (Status.PAUSED, (0.7, 0.6))
        ),
        enough=2,
    )
    assert seen.order().tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    "config",
    [
        Config(lr=2.0, optimizer="adam"),
        Config(lr=0.5, optimizer="lion"),
        Config(lr=0.5, optimizer="sgd"),
        Config(lr=0.5, optimizer="adam", momentum=0.5),
        Config(optimizer="adam"),
    ],
)
def test_trials_outside_the_space_are_left_out(config: Config) -> None:
    seen = Observer(SPACE).observe(History((TrialRecord(0, config, Status.DONE, (0.1,)),)), 1)
    assert len(seen) == len(seen.pending) == 0


@given(first=outcomes, second=outcomes, enough=st.integers(1, 12))
def test_what_was_read_before_changes_nothing(
    first: list[tuple[Status, tuple[float, ...]]], second: list[tuple[Status, tuple[float, ...]]], enough: int
) -> None:
    """Also where histories shrink, and trials become others."""
    lasting = Observer(SPACE)
    one, other = history(*first), history(*second)
    mixed = History((*one.trials[: len(first) // 2], *other.trials[len(first) // 2 :]))
    for each in (one, mixed, other, one):
        assert same(lasting.observe(each, enough), Observer(SPACE).observe(each, enough))


@given(outcomes=outcomes, enough=st.integers(1, 12))
def test_the_epoch_is_the_largest_by_definition(outcomes: list[tuple[Status, tuple[float, ...]]], enough: int) -> None:
    def reaches(status: Status, values: tuple[float, ...], epoch: int) -> bool:
        good = status not in (Status.INFEASIBLE, Status.FAILED, Status.CANCELLED)
        settled = status in (Status.DONE, Status.CONVERGED)
        return good and len(values) > 0 and math.isfinite(values[-1]) and (settled or len(values) >= epoch)

    counts = {e: sum(reaches(s, v, e) for s, v in outcomes) for e in range(1, 7)}
    furthest = max((len(v) for s, v in outcomes if reaches(s, v, 1)), default=1)
    needed = min(enough, counts[1])
    expected = max((e for e in range(1, furthest + 1) if counts[e] >= needed), default=1)
    assert Observer(SPACE).observe(history(*outcomes), enough).epoch == expected
