from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from rheostat.errors import SettingError
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.schedule.pbt import LIVE, PBT, Perturb, families
from rheostat.search.random import Random
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Assignment, Config, Continue, History, Start, Status, Stop, TrialRecord

SPACE = Space(lr=Float(1e-4, 1.0, log=True), units=Int(8, 64))
CONFIG = Config(lr=0.01, units=16)


class Given:
    """Gives these configurations, one after the other."""

    adaptive = False

    def __init__(self, configs: Sequence[Config]) -> None:
        self.configs = configs

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        begun = len(history.trials)
        return list(self.configs[begun : begun + n])


def trained(number: int, value: float, epochs: int = 2, **changes: object) -> TrialRecord:
    return replace(TrialRecord(number, CONFIG, Status.PAUSED, (value,) * epochs, epochs), **changes)  # type: ignore[arg-type]


def pbt(trials: int | None = 100, population: int = 5, **settings: object) -> PBT:
    return PBT(SPACE, Random(SPACE), trials, 10, population, interval=2, **settings)  # type: ignore[arg-type]


def decide(scheduler: PBT, trials: Sequence[TrialRecord], free: int = 9, seed: int = 0) -> list[Assignment]:
    return scheduler.next(History(tuple(trials)), free, np.random.default_rng(seed))


def short(found: Sequence[Assignment]) -> list[tuple[object, ...]]:
    """('stop', trial), ('copy', parent, until), ('new', until) or ('go', trial, until)."""
    words: list[tuple[object, ...]] = []
    for a in found:
        if isinstance(a, Stop):
            words.append(("stop", a.trial))
        elif isinstance(a, Continue):
            words.append(("go", a.trial, a.until_epoch))
        else:
            words.append(("new", a.until_epoch) if a.parent is None else ("copy", a.parent, a.until_epoch))
    return words


FIVE = [trained(i, value) for i, value in enumerate([0.3, 0.1, 0.9, 0.5, 0.4])]


def test_the_worst_fifth_becomes_a_copy_of_the_best_fifth() -> None:
    found = decide(pbt(), FIVE)
    assert short(found) == [("stop", 2), ("copy", 1, 4), ("go", 1, 4), ("go", 0, 4), ("go", 4, 4), ("go", 3, 4)]
    copy = found[1]
    assert isinstance(copy, Start)
    assert copy.config.units == 16 and copy.config.lr != 0.01


def test_members_wait_for_each_other_and_begin_together() -> None:
    assert short(decide(pbt(), [])) == [("new", 2)] * 5
    assert short(decide(pbt(), FIVE[:3], free=1)) == [("new", 2)]
    training = replace(FIVE[4], status=Status.TRAINING, values=(0.4,))
    assert decide(pbt(), [*FIVE[:4], training]) == []
    interrupted = replace(FIVE[4], values=(0.4,))
    assert short(decide(pbt(), [*FIVE[:4], interrupted])) == [("go", 4, 2)]


def test_with_few_places_copies_come_first_and_their_parents_last() -> None:
    ten = [trained(i, 0.1 * (i + 1)) for i in range(10)]
    scheduler = pbt(population=10)
    first = decide(scheduler, ten, free=1)
    assert [word[0] for word in short(first)] == ["stop", "stop", "copy"]
    cut = [*ten[:8], *(replace(t, status=Status.CUT) for t in ten[8:])]
    copy = trained(10, 0.1, parent=0, born=2, until_epoch=4, status=Status.TRAINING)
    again = short(decide(scheduler, [*cut, copy], free=2))
    assert again[0][0] == "copy" and again[1] == ("go", 0, 4)
    third = short(decide(scheduler, [*cut, copy], free=1))
    assert [word[0] for word in third] == ["copy"]
    both = [*cut, copy, replace(copy, number=11, parent=1)]
    assert short(decide(scheduler, both, free=9)) == [("go", i, 4) for i in range(8)]  # and nobody is cut again


def test_a_copy_that_dies_at_once_does_not_make_the_population_be_compared_again() -> None:
    cut = [*(replace(t, status=Status.CUT) if t.number == 2 else t for t in FIVE)]
    dead = trained(5, 0.1, parent=1, born=2, until_epoch=4, status=Status.INFEASIBLE)
    assert short(decide(pbt(), [*cut, dead])) == [("copy", 1, 4)] + [("go", i, 4) for i in (1, 0, 4, 3)]


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.FAILED, Status.CONVERGED])
def test_the_places_of_the_dead_are_filled_first(status: Status) -> None:
    dead = replace(FIVE[3], status=status)
    words = short(decide(pbt(), [*FIVE[:3], dead, FIVE[4]]))
    assert words == [("copy", 1, 4), ("go", 1, 4), ("go", 0, 4), ("go", 4, 4), ("go", 2, 4)]


def test_a_trial_that_the_user_cancelled_leaves_no_place() -> None:
    cancelled = replace(FIVE[2], status=Status.CANCELLED)
    words = short(decide(pbt(), [*FIVE[:2], cancelled, *FIVE[3:]]))
    assert words[:2] == [("stop", 3), ("copy", 1, 4)] and len(words) == 5


def test_without_trials_left_everybody_goes_on() -> None:
    assert short(decide(pbt(trials=5), FIVE)) == [("go", i, 4) for i in (1, 0, 4, 3, 2)]


def test_of_equal_trials_the_newer_is_replaced_and_diverged_ones_are_no_parents() -> None:
    assert short(decide(pbt(), [trained(i, 0.5) for i in range(5)]))[:2] == [("stop", 4), ("copy", 0, 4)]
    assert short(decide(pbt(), [trained(i, math.nan) for i in range(5)])) == [("go", i, 4) for i in range(5)]


def test_when_a_population_is_done_another_begins() -> None:
    done = [trained(i, 0.1, 10, status=Status.DONE) for i in range(5)]
    assert short(decide(pbt(), done)) == [("new", 2)] * 5
    assert short(decide(pbt(trials=7), done)) == [("new", 2)] * 2
    assert decide(pbt(trials=5), done) == []
    almost = [*done[:4], trained(4, 0.1, 8, status=Status.TRAINING, until_epoch=10)]
    assert decide(pbt(), almost) == []


def test_the_last_interval_may_be_shorter() -> None:
    scheduler = PBT(SPACE, Random(SPACE), 100, 7, 5, interval=3)
    words = short(decide(scheduler, [trained(i, 0.1, 6) for i in range(5)]))
    assert words == [("stop", 4), ("copy", 0, 7), *(("go", i, 7) for i in range(4))]


def test_families() -> None:
    trials = [trained(i, 0.1) for i in range(3)]
    trials += [trained(3, 0.1, parent=0), trained(4, 0.1), trained(5, 0.1, parent=3), trained(6, 0.1, parent=2)]
    assert [[t.number for t in members] for members in families(trials, 2)] == [[0, 1, 3, 5], [2, 4, 6]]


# -- the toy of the paper ------------------------------------------------------------------------------------


def toy(scheduler: Scheduler, epochs: int) -> float:
    """Figure 2: maximise 1.2 - x^2 - y^2 from (0.9, 0.9) with the gradient of 1.2 - h_x x^2 - h_y y^2.

    The best value at the end.
    """
    trials: list[TrialRecord] = []
    weights: dict[int, np.ndarray] = {}
    while work := scheduler.next(History(tuple(trials)), 2, np.random.default_rng(len(trials))):
        for a in work:
            if isinstance(a, Stop):
                trials[a.trial] = replace(trials[a.trial], status=Status.CUT)
                continue
            if isinstance(a, Start):
                number, parent = len(trials), a.parent
                weights[number] = np.array([0.9, 0.9]) if parent is None else weights[parent].copy()
                values = () if parent is None else trials[parent].values
                trials.append(TrialRecord(number, a.config, Status.PAUSED, values, 0, "", parent, len(values)))
            number = len(trials) - 1 if isinstance(a, Start) else a.trial
            old = trials[number]
            h = np.array([old.config["lr"], old.config["momentum"]])
            for _ in range(a.until_epoch - old.epochs):
                weights[number] -= 0.02 * 2 * h * weights[number]
                old = replace(old, values=(*old.values, float(np.sum(weights[number] ** 2)) - 1.2))
            status = Status.DONE if a.until_epoch == epochs else Status.PAUSED
            trials[number] = replace(old, until_epoch=a.until_epoch, status=status)
    return -min(trial.values[-1] for trial in trials)


def test_on_the_toy_of_the_paper_it_finds_the_optimum_and_a_grid_does_not() -> None:
    space = Space(lr=Float(0.0, 1.0), momentum=Float(0.0, 1.0))
    corners = [Config(lr=0.0, momentum=1.0), Config(lr=1.0, momentum=0.0)]
    assert toy(FIFO(Given(corners), 2, 200), 200) == pytest.approx(1.2 - 0.81, abs=0.01)
    ends = [
        toy(PBT(space, Given(corners), 100, 200, 2, interval=4, explore=Reseeded(space, seed)), 200)
        for seed in range(5)
    ]
    assert min(ends) > 1.0 and median(ends) > 1.15


class Reseeded:
    """The usual way to explore, with random numbers of its own."""

    def __init__(self, space: Space, seed: int) -> None:
        self.perturb, self.seed = Perturb(space), seed

    def explore(
        self, parent: TrialRecord, history: History, interval: int, copies: Sequence[Start], rng: np.random.Generator
    ) -> Config:
        rng = np.random.default_rng([self.seed, len(history.trials), len(copies)])
        return self.perturb.explore(parent, history, interval, copies, rng)


# -- what a copy does differently ----------------------------------------------------------------------------


def explored(space: Space, config: Config, *names: str, times: int = 400) -> list[Config]:
    parent = replace(trained(0, 0.1), config=config)
    rng = np.random.default_rng(0)
    return [Perturb(space, names).explore(parent, History(), 1, [], rng) for _ in range(times)]


def test_values_are_multiplied_or_drawn_anew() -> None:
    space = Space(lr=Float(1e-4, 1.0, log=True, prior=Prior(0.1, 0.9)), batch_size=Int(8, 64))
    configs = explored(space, Config(lr=0.01, batch_size=20))
    near = [c.lr for c in configs if any(math.isclose(c.lr, v) for v in (0.008, 0.012))]
    assert 0.68 < len(near) / len(configs) < 0.82
    others = [c.lr for c in configs if c.lr not in near]
    assert 0.03 < median(others) < 0.3  # where the prior is
    assert {16, 24} < {c.batch_size for c in configs}
    assert all(space.complete(c) == c for c in configs)


def test_values_stay_in_their_range() -> None:
    for config in explored(SPACE, Config(lr=0.95, units=16)):
        assert 1e-4 <= config.lr <= 1.0 and config.units == 16


def test_of_a_choice_of_numbers_a_neighbour_is_taken() -> None:
    space = Space(batch_size=Choice([64, 16, 32, 128]), optimizer=Choice(["adam", "sgd"]))
    configs = explored(space, Config(batch_size=32, optimizer="adam"))
    counts = {size: sum(c.batch_size == size for c in configs) for size in (16, 32, 64, 128)}
    assert counts[16] > 100 and counts[64] > 100 and counts[32] < 50 and counts[128] < 50
    assert {c.optimizer for c in configs} == {"adam"}


def test_what_is_inactive_or_decides_over_others_is_left() -> None:
    space = Space(
        optimizer=Choice(["adam", "sgd"]),
        lr=Float(0.1, 1.0),
        momentum=Float(0.1, 0.9, when={"optimizer": "sgd"}),
        batch_size=Choice([8, 16]),
        dropout=Float(0.0, 0.5, when={"batch_size": 8}),
    )
    assert Perturb(space).names == ("lr", "momentum", "dropout")
    for config in explored(space, Config(optimizer="adam", lr=0.5, batch_size=16), times=20):
        assert space.complete(config) == config


def test_other_names_may_be_explored() -> None:
    configs = explored(SPACE, CONFIG, "units")
    assert len({c.units for c in configs}) > 5 and {c.lr for c in configs} == {0.01}
    assert "lr" in LIVE and "units" not in LIVE


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pbt(population=1), "population=1"),
        (lambda: pbt(quantile=0.6), "quantile=0.6"),
        (lambda: PBT(SPACE, Random(SPACE), 5, 5, interval=0), "interval=0"),
        (lambda: PBT(Space(units=Int(1, 9)), Random(SPACE), 5, 5), "nothing to do differently.*lr.*asha"),
        (lambda: Perturb(SPACE, ("unit",)), "unit.*units"),
    ],
)
def test_settings_that_are_not_allowed(make: object, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()  # type: ignore[operator]
