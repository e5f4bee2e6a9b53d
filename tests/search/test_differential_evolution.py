from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import differential_evolution

from rheostat.errors import SettingError
from rheostat.schedule.hyperband import Hyperband
from rheostat.search.differential_evolution import DifferentialEvolution
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, Continue, History, Start, Status, TrialRecord
from tests.search.test_contract import study

SPACE = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
WIDE = Space({f"x{i}": Float(-5.12, 5.12) for i in range(5)})


def rastrigin(config: Config) -> float:
    x = np.array([config[name] for name in config])
    return float(10 * len(x) + np.sum(x**2 - 10 * np.cos(2 * math.pi * x)))


def record(number: int, x: float, y: float, *values: float, status: Status = Status.DONE) -> TrialRecord:
    return TrialRecord(number, Config(x=x, y=y), status, values, len(values))


class Dice(np.random.Generator):
    """A generator whose draws are known."""

    def __init__(self, parents: list[int], fresh: list[float], crossed: list[float], at_least: int) -> None:
        super().__init__(np.random.PCG64(0))
        self._parents, self._uniform, self._at_least = parents, [fresh, crossed], at_least

    def choice(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
        return np.array(self._parents)

    def random(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
        return np.array(self._uniform.pop(0))

    def integers(self, *_: object, **__: object) -> int:  # type: ignore[override]
        return self._at_least


MEMBERS = (
    record(0, 0.1, 0.1, 5.0),
    record(1, 0.2, 0.5, 1.0),
    record(2, 0.4, 0.9, 1.0),
    record(3, 0.8, 0.3, 1.0),
)


@pytest.mark.parametrize(
    ("parents", "crossed", "at_least", "expected"),
    [
        # x: 0.2 + 0.5 (0.4 - 0.8) = 0.0; y: 0.5 + 0.5 (0.9 - 0.3) = 0.8; the target is trial 0, at (0.1, 0.1)
        ([0, 1, 2], [0.1, 0.1], 0, (0.0, 0.8)),
        ([0, 1, 2], [0.9, 0.1], 1, (0.1, 0.8)),
        ([0, 1, 2], [0.9, 0.9], 0, (0.0, 0.1)),  # one at least comes from the mutant
        # x: 0.8 + 0.5 (0.4 - 0.2) = 0.9; y: 0.3 + 0.5 (0.9 - 0.5) = 0.5
        ([2, 1, 0], [0.1, 0.1], 0, (0.9, 0.5)),
        # x: 0.4 + 0.5 (0.8 - 0.2) = 0.7; y: 0.9 + 0.5 (0.3 - 0.5) = 0.8
        ([1, 2, 0], [0.1, 0.1], 0, (0.7, 0.8)),
        # x: 0.2 + 0.5 (0.8 - 0.4) = 0.4; y: 0.5 + 0.5 (0.3 - 0.9) = 0.2
        ([0, 2, 1], [0.1, 0.1], 0, (0.4, 0.2)),
    ],
)
def test_a_trial_vector_by_hand(
    parents: list[int], crossed: list[float], at_least: int, expected: tuple[float, float]
) -> None:
    """Storn and Price 1997: mutation and binomial crossover."""
    rng = Dice(parents, [0.66, 0.77], crossed, at_least)
    (config,) = DifferentialEvolution(SPACE, 0, population=4).suggest(History(MEMBERS), 1, rng)
    assert (config.x, config.y) == pytest.approx(expected)


def test_what_leaves_the_cube_is_drawn_anew() -> None:
    rng = Dice([2, 1, 0], [0.66, 0.77], [0.1, 0.1], 0)
    de = DifferentialEvolution(SPACE, 0, population=4, weight=1.5)  # x: 0.8 + 1.5 * 0.2; y: 0.3 + 1.5 * 0.4
    (config,) = de.suggest(History(MEMBERS), 1, rng)
    assert (config.x, config.y) == pytest.approx((0.66, 0.9))


def members(*trials: TrialRecord, population: int = 4) -> dict[int, tuple[float, ...]]:
    found = DifferentialEvolution(SPACE, 0, population=population)._members(History(trials))
    return {place: tuple(point.tolist()) for place, point in found.items()}


def test_a_place_belongs_to_the_best_of_its_trials_and_of_equal_ones_to_the_newer() -> None:
    better, worse, equal = record(4, 0.3, 0.3, 4.0), record(5, 0.3, 0.3, 1.1), record(6, 0.7, 0.7, 1.0)
    assert members(*MEMBERS, better, worse, equal) == {0: (0.3, 0.3), 1: (0.2, 0.5), 2: (0.7, 0.7), 3: (0.8, 0.3)}


def test_bad_trials_and_those_in_flight_win_no_place() -> None:
    later = (
        record(4, 0.3, 0.3, -1.0, status=Status.INFEASIBLE),
        record(5, 0.3, 0.3, status=Status.TRAINING),
        record(6, 0.3, 0.3, -1.0, status=Status.CANCELLED),
        record(7, 0.3, 0.3, -1.0, math.nan),
    )
    assert members(*MEMBERS, *later) == members(*MEMBERS)


def test_members_are_compared_at_the_largest_epoch_that_enough_have_reached() -> None:
    """Trial 4 began better than trial 0, and was left behind after the epoch at which trial 0 was weighed again."""
    paused = Status.PAUSED
    first = tuple(record(i, 0.1 * i, 0.5, 5.0, 4.0, 3.0, status=paused) for i in range(4))
    behind = record(4, 0.9, 0.9, 1.0, status=paused)
    assert members(*first, behind)[0] == (0.0, 0.5)
    longer = record(4, 0.9, 0.9, 1.0, 1.0, 1.0, status=paused)
    assert members(*first, longer)[0] == (0.9, 0.9)
    assert members(*first[:3], behind)[0] == (0.9, 0.9)  # three are too few: all are compared at epoch 1
    converged = record(4, 0.9, 0.9, 1.0, status=Status.CONVERGED)  # would have kept its value
    assert members(*first, converged)[0] == (0.9, 0.9)


def test_the_first_trials_are_sobol_points() -> None:
    de = DifferentialEvolution(SPACE, 3, population=8)
    rng = np.random.default_rng(0)
    assert de.suggest(History(), 10, rng)[:8] == Sobol(SPACE, 3).suggest(History(), 8, rng)


def test_it_is_about_as_good_as_that_of_scipy() -> None:
    """The same method, generation by generation: rand/1/bin, the same population, weight and crossover."""
    low, high = (np.array(ends) for ends in zip(*[(-5.12, 5.12)] * 5, strict=True))

    def of_vector(x: np.ndarray) -> float:
        return rastrigin(Config({f"x{i}": float(v) for i, v in enumerate(np.clip(x, low, high))}))

    theirs = [
        differential_evolution(
            of_vector,
            [(-5.12, 5.12)] * 5,
            strategy="rand1bin",
            maxiter=49,
            popsize=4,
            mutation=0.5,
            recombination=0.5,
            polish=False,
            tol=0,
            init="sobol",
            rng=np.random.default_rng(seed),
        ).fun
        for seed in range(4)
    ]
    de = [min(t.best for t in study(DifferentialEvolution(WIDE, seed), rastrigin, 1000, batch=20)) for seed in range(4)]
    random = min(map(rastrigin, WIDE.sample(np.random.default_rng(0), 1000)))
    assert np.mean(de) < 1.5 * np.mean(theirs)
    assert np.mean(de) < random / 2


def test_categories_whole_numbers_and_conditions() -> None:
    space = Space(kind=Choice(["a", "b", "c"]), n=Int(1, 30), x=Float(1e-5, 1.0, log=True, when={"kind": ["a", "b"]}))

    def value(config: Config) -> float:
        return abs(config.n - 21) / 30 + (
            2.0 if config.kind == "c" else abs(math.log10(config.x) + 3) + (config.kind == "a")
        )

    trials = study(DifferentialEvolution(space, 0), value, 250)
    best = min(trials, key=lambda trial: trial.best).config
    assert best.kind == "b" and abs(best.n - 21) <= 1 and abs(math.log10(best.x) + 3) < 0.1


def test_with_hyperband_parents_have_been_trained_longest() -> None:
    """After many trials the members are those that were promoted."""
    scheduler = Hyperband(DifferentialEvolution(SPACE, 0, population=6), 120, 9)
    trials: list[TrialRecord] = []
    while work := scheduler.next(History(tuple(trials)), 4, np.random.default_rng(len(trials))):
        for a in work:
            if isinstance(a, Start):
                trials.append(TrialRecord(len(trials), a.config, Status.TRAINING))
            else:
                assert isinstance(a, Continue)
            number = a.trial if isinstance(a, Continue) else len(trials) - 1
            config = trials[number].config
            values = tuple(abs(config.x - 0.3) + abs(config.y - 0.6) + 1 / e for e in range(1, a.until_epoch + 1))
            trials[number] = TrialRecord(number, config, Status.PAUSED, values, a.until_epoch)
    found = scheduler.searcher._members(History(tuple(trials)))  # type: ignore[attr-defined]
    points = {tuple(p.tolist()) for p in found.values()}
    at = [t for t in trials if (t.config.x, t.config.y) in points]
    assert all(t.epochs == 9 for t in at)
    assert min(abs(t.config.x - 0.3) + abs(t.config.y - 0.6) for t in at) < 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"population": 3}, "population=3.*at least 4"),
        ({"weight": 0.0}, "weight=0.0"),
        ({"weight": math.nan}, "weight=nan"),
        ({"crossover": 1.5}, "crossover=1.5"),
    ],
)
def test_settings_that_are_not_allowed(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        DifferentialEvolution(SPACE, 0, **settings)  # type: ignore[arg-type]
