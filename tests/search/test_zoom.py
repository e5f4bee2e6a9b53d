"""From coarse to fine along one hyperparameter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rheostat.search.zoom import Zoom
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, History, Status, TrialRecord

LR = Float(1e-4, 1e-1, log=True, prior=Prior(3e-3, 0.5))
RNG = np.random.default_rng(0)


def search(
    zoom: Zoom, loss: Callable[[Config], float], at_once: int = 8, trials: tuple[TrialRecord, ...] = ()
) -> tuple[TrialRecord, ...]:
    """Every trial until the searcher has nothing more; infinite losses diverged."""
    while found := zoom.suggest(History(trials), at_once, RNG):
        for config in found:
            value = loss(config)
            status = Status.DONE if math.isfinite(value) else Status.INFEASIBLE
            trials += (TrialRecord(len(trials), config, status, (value,) if math.isfinite(value) else (), 1),)
    return trials


def bowl(best: float) -> Callable[[Config], float]:
    return lambda config: math.log10(config.lr / best) ** 2


def test_two_thirds_are_coarse_and_the_others_half_way_to_the_neighbours_of_the_best() -> None:
    zoom = Zoom(Space(lr=LR, layers=2), 8, seed=0, along="lr")
    trials = search(zoom, bowl(7e-3))
    assert len(trials) == 8 and all(t.config.layers == 2 for t in trials)
    assert [t.config for t in trials[:6]] == zoom.first
    coarse = sorted(t.config.lr for t in trials[:6])
    best = min(trials[:6], key=lambda t: t.best).config.lr
    place = coarse.index(best)
    middles = [math.sqrt(best * coarse[place - 1]), math.sqrt(best * coarse[place + 1])]
    np.testing.assert_allclose([t.config.lr for t in trials[6:]], middles, rtol=1e-3)
    assert zoom.wider(t.config for t in trials) == []


def test_it_goes_further_where_the_best_lies_at_an_end() -> None:
    zoom = Zoom(Space(lr=LR), 8, seed=0)
    trials = search(zoom, bowl(0.5))
    wider = zoom.wider(t.config for t in trials)
    assert wider == [6, 7, 8] and len(trials) == 11
    lrs = [t.config.lr for t in trials]
    np.testing.assert_allclose(lrs[6:9], max(lrs[:6]) * math.sqrt(10) ** np.arange(1, 4), rtol=1e-3)
    assert min(trials, key=lambda t: t.best).config.lr > LR.high  # out of the range


def test_a_neighbour_that_diverged_is_one() -> None:
    trials = search(Zoom(Space(lr=LR), 8, seed=0), lambda c: math.inf if c.lr > 0.012 else -c.lr)
    assert len(trials) == 8
    assert search(Zoom(Space(lr=LR), 8, seed=0), lambda c: math.inf)[6].config.lr < 5e-4  # nothing trained: downwards


@given(st.integers(1, 30), st.integers(0, 5), st.floats(-6, 1))
def test_the_budget_is_kept_and_coarse_points_are_shared(trials: int, seed: int, best: float) -> None:
    spaces = [Space(lr=LR, units=16), Space(lr=LR, units=64)]
    zooms = [Zoom(space, trials, seed, "lr") for space in spaces]
    first, second = ([c.lr for c in zoom.first] for zoom in zooms)
    assert first == second and len(first) == len(set(first)) >= trials * 2 / 3
    tried = search(zooms[0], bowl(10**best))
    wider = zooms[0].wider(t.config for t in tried)
    assert len(tried) - len(wider) <= trials and len(wider) <= (3 if trials >= 4 else 0)
    assert len({t.config.key() for t in tried}) == len(tried)


def test_it_depends_on_the_history_alone() -> None:
    """Continued from any point, and however many are asked for at once, the same configurations come."""
    zoom = Zoom(Space(lr=LR, wd=Float(1e-4, 1, log=True), schedule=Choice(["cosine", "constant"])), 13, 3, "lr")
    whole = search(zoom, bowl(2e-3), at_once=1)
    for start in (0, 3, 9, 11):
        again = search(Zoom(zoom.space, 13, 3, "lr"), bowl(2e-3), 1, whole[:start])
        assert [t.config for t in again] == [t.config for t in whole]


def test_it_waits_for_what_is_in_training() -> None:
    zoom = Zoom(Space(lr=LR), 8, 0)
    running = tuple(TrialRecord(i, c, Status.TRAINING, (), 1) for i, c in enumerate(zoom.first))
    assert zoom.suggest(History(running), 8, RNG) == []


def test_a_finite_space_is_tried_once() -> None:
    assert len(search(Zoom(Space(a=Choice([1, 2, 3]), b=Choice([True, False])), 20, 0), lambda c: 0.0)) == 6
    whole = search(Zoom(Space(units=Int(1, 4, log=True)), 12, 0), lambda c: c.units)
    assert {t.config.units for t in whole} == {1, 2, 3, 4}
    assert len(search(Zoom(Space(x=1), 5, 0), lambda c: 0.0)) == 1
