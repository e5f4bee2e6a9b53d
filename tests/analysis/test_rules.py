"""The rules of docs/advice.md beyond ranges and lengths: what each finds, and how seldom it errs where nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from rheostat.analysis.advice import RULES, advise
from rheostat.analysis.rules.base import Advice, Evidence
from rheostat.analysis.rules.effort import going_on
from rheostat.analysis.rules.length import short_runs_mislead
from rheostat.analysis.rules.noise import seed_noise
from rheostat.analysis.rules.ranges import log_scale, range_edges
from rheostat.analysis.rules.relevance import irrelevant
from rheostat.analysis.rules.stability import boundary, infeasible_beyond, unstable_optimum
from rheostat.schedule.outlook import outlook
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, History, Status, TrialRecord

SPACE = Space(
    {f"x{i}": Float(0.0, 1.0) for i in range(4)},
    lr=Float(1e-5, 1.0, log=True),
    batch_size=Int(16, 256, log=True),
    momentum=Float(0.0, 0.9),
)


def seen(space: Space, trials: Sequence[TrialRecord], metric: str = "val_loss") -> Evidence:
    return Evidence(space, trials, 9, metric)


def study(
    space: Space,
    n: int,
    value: Callable[[Config], float],
    rng: np.random.Generator,
    reason: Callable[[Config], str] = lambda c: "",
) -> list[TrialRecord]:
    """Trials of one epoch; those for which there is a reason are infeasible."""
    found = []
    for i, c in enumerate(space.sample(rng, n)):
        why = reason(c)
        status, values = (Status.INFEASIBLE, ()) if why else (Status.DONE, (float(value(c)),))
        found.append(TrialRecord(i, c, status, values, 1, why))
    return found


def alarms(rule: Callable[[Evidence], list[Advice]], make: Callable[[np.random.Generator], Evidence], n: int) -> int:
    rng = np.random.default_rng(17)
    return sum(bool(rule(make(rng))) for _ in range(n))


# -- scales --------------------------------------------------------------------------------------------------------

LINEAR = Space(lr=Float(1e-4, 0.1), units=Int(4, 1024), x=Float(0.0, 1.0), narrow=Float(0.05, 0.1))


def test_a_linear_range_whose_low_end_matters_wants_a_log_scale() -> None:
    trials = study(LINEAR, 80, lambda c: abs(math.log10(c.lr) + 2.7), np.random.default_rng(0))
    (advice,) = log_scale(seen(LINEAR, trials))
    assert (advice.kind, advice.hyperparameter) == ("log scale", "lr")
    assert advice.suggestion == {"lr": {"low": 1e-4, "high": 0.1, "log": True}}
    assert not [a for a in range_edges(seen(LINEAR, trials)) if a.hyperparameter == "lr"]


def test_a_log_scale_is_not_missed_where_the_middle_or_nothing_matters() -> None:
    def nothing(rng: np.random.Generator) -> Evidence:
        return seen(LINEAR, study(LINEAR, 60, lambda c: rng.normal(), rng))

    def middle(rng: np.random.Generator) -> Evidence:
        return seen(LINEAR, study(LINEAR, 60, lambda c: abs(c.lr - 0.05) + 0.01 * rng.normal(), rng))

    assert alarms(log_scale, nothing, 100) <= 5
    assert alarms(log_scale, middle, 30) == 0


# -- divergence ------------------------------------------------------------------------------------------------------


def diverges(c: Config) -> str:
    return "val_loss = nan" if c.lr > 0.1 else ""


def test_the_boundary_of_divergence_is_learnt_with_its_uncertainty() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(20):
        p = lambda c: 1 / (1 + math.exp(-8 * (math.log10(c.lr) + 1)))  # noqa: E731
        trials = study(SPACE, 60, lambda c: 1.0, rng, lambda c, p=p: "nan" * (rng.random() < p(c)))
        bad = [t for t in trials if t.status is Status.INFEASIBLE]
        found = boundary(seen(SPACE, trials), bad)
        assert found is not None and found.name == "lr" and found.above
        assert 0.03 < found.value < 0.3
        inside += found.interval[0] <= 0.1 <= found.interval[1]
    assert inside >= 15  # of 20, where 90 % are promised


def test_advice_ends_the_range_where_trials_diverge() -> None:
    trials = study(SPACE, 60, lambda c: -c.lr, np.random.default_rng(2), diverges)
    (advice,) = infeasible_beyond(seen(SPACE, trials))
    assert (advice.kind, advice.hyperparameter) == ("boundary", "lr")
    assert advice.suggestion is not None and advice.suggestion["lr"]["low"] == 1e-5
    assert 0.05 < advice.suggestion["lr"]["high"] < 0.2
    assert "trials diverge" in advice.text


def test_memory_has_a_boundary_of_its_own() -> None:
    reason = lambda c: "out of memory at step 1" if c.batch_size > 128 else ""  # noqa: E731
    (advice,) = infeasible_beyond(seen(SPACE, study(SPACE, 80, lambda c: c.lr, np.random.default_rng(3), reason)))
    assert advice.hyperparameter == "batch_size" and "run out of memory" in advice.text
    assert advice.suggestion is not None and 100 < advice.suggestion["batch_size"]["high"] < 160
    assert not unstable_optimum(seen(SPACE, study(SPACE, 80, lambda c: -c.lr, np.random.default_rng(3), reason)))


def test_no_boundary_where_trials_diverge_at_random() -> None:
    def random(rng: np.random.Generator) -> Evidence:
        return seen(SPACE, study(SPACE, 60, lambda c: rng.normal(), rng, lambda c: "nan" * (rng.random() < 0.25)))

    assert alarms(infeasible_beyond, random, 60) <= 3
    assert alarms(unstable_optimum, random, 30) <= 1


def test_an_optimum_at_the_edge_of_instability_is_named() -> None:
    space = Space(lr=Float(1e-5, 1.0, log=True), x=Float(0.0, 1.0))
    rng = np.random.default_rng(4)
    trials = study(space, 60, lambda c: -math.log10(c.lr) + 0.05 * rng.normal(), rng, diverges)
    (advice,) = unstable_optimum(seen(space, trials))
    assert advice.kind == "unstable" and "warm-up" in advice.text
    inside = study(space, 60, lambda c: abs(math.log10(c.lr) + 3) + 0.05 * rng.normal(), rng, diverges)
    assert not unstable_optimum(seen(space, inside))


def test_an_edge_of_instability_is_hardly_ever_named_where_results_are_random() -> None:
    space = Space(lr=Float(1e-5, 1.0, log=True), x=Float(0.0, 1.0))
    random = lambda rng: seen(space, study(space, 60, lambda c: rng.normal(), rng, diverges))  # noqa: E731
    assert alarms(unstable_optimum, random, 100) <= 5


# -- what does not matter ----------------------------------------------------------------------------------------------


def test_what_does_not_matter_is_to_be_fixed_at_the_best_value() -> None:
    rng = np.random.default_rng(5)
    trials = study(SPACE, 400, lambda c: abs(math.log10(c.lr) + 2) + 0.5 * c.x0 + 0.1 * rng.normal(), rng)
    (advice,) = irrelevant(seen(SPACE, trials))
    best = min(trials, key=lambda t: t.best).config
    assert advice.suggestion is not None and {"x1", "x2", "momentum"} <= advice.suggestion.keys()
    assert not {"lr", "x0"} & advice.suggestion.keys()
    assert all(best[name] == value for name, value in advice.suggestion.items())


def test_nothing_that_matters_is_ever_called_irrelevant() -> None:
    """Seven that matter alike; one that tells only good trials apart; and studies in which only noise does."""

    def among_good(c: Config) -> float:
        return 10 * max(abs(math.log10(c.lr) + 2) - 1, 0.0) + c.x0

    def good(rng: np.random.Generator) -> Evidence:
        return seen(SPACE, study(SPACE, 400, lambda c: among_good(c) + 0.1 * rng.normal(), rng))

    def without_x0(given: Evidence) -> list[Advice]:
        return [a for a in irrelevant(given) if a.suggestion is not None and "x0" in a.suggestion]

    def alike(rng: np.random.Generator) -> Evidence:
        units = lambda c: sum(part.encode(c[name]) for name, part in SPACE.items())  # noqa: E731
        return seen(SPACE, study(SPACE, 120, lambda c: units(c) + 0.3 * rng.normal(), rng))

    assert alarms(without_x0, good, 10) == 0
    assert alarms(irrelevant, alike, 25) <= 1
    assert alarms(irrelevant, lambda rng: seen(SPACE, study(SPACE, 120, lambda c: rng.normal(), rng)), 25) <= 1


# -- short and long runs -----------------------------------------------------------------------------------------------


def curves(rng: np.random.Generator, agree: float, n: int = 40, noise: float = 0.02) -> Evidence:
    """Nine epochs; the value at the end correlates by about `agree` with that after one, where 3 in 4 are stopped."""
    trials = []
    first = rng.normal(size=n)
    last = agree * first + math.sqrt(1 - agree**2) * rng.normal(size=n)
    goes_on = np.argsort(first) < n // 2  # who was good early, as successive halving chooses
    for i in range(n):
        path = first[i] + (last[i] - first[i]) * np.minimum(np.arange(9) / 5, 1) + noise * rng.normal(size=9)
        epochs = 9 if goes_on[i] else 1
        status = Status.DONE if goes_on[i] else Status.PAUSED
        trials.append(TrialRecord(i, Config(x0=0.5), status, tuple(path[:epochs]), epochs))
    return seen(SPACE, trials)


def test_short_runs_that_say_nothing_of_long_ones() -> None:
    found = [short_runs_mislead(curves(np.random.default_rng(seed), -0.5)) for seed in range(20)]
    assert sum(map(bool, found)) >= 16
    advice = next(f[0] for f in found if f)
    assert advice.kind == "short runs mislead" and advice.suggestion is not None
    assert 2 <= advice.suggestion["grace_period"] <= 8 and "Values after 1 epoch," in advice.text


def test_short_runs_that_predict_or_where_there_is_only_noise() -> None:
    assert alarms(short_runs_mislead, lambda rng: curves(rng, 0.9), 100) <= 5  # in spite of who was chosen
    assert alarms(short_runs_mislead, lambda rng: curves(rng, 0.0, noise=30.0), 100) <= 5  # every epoch at random
    everyone = lambda rng: seen(SPACE, [t for t in curves(rng, -0.5).trials if t.epochs == 9])  # noqa: E731
    assert alarms(short_runs_mislead, everyone, 20) == 0  # nobody was stopped


# -- noise -------------------------------------------------------------------------------------------------------------


def jittering(rng: np.random.Generator, jitter: float, gap: float, schedule: str = "constant") -> Evidence:
    trials = []
    for i in range(12):
        level = 1.0 + gap * i
        values = level + np.exp(-np.arange(20) / 2) + jitter * rng.normal(size=20)
        trials.append(TrialRecord(i, Config(x0=i / 12, schedule=schedule), Status.DONE, tuple(values), 20))
    return seen(SPACE, trials)


def test_a_lead_smaller_than_the_jitter_of_epochs_is_no_lead() -> None:
    (advice,) = seed_noise(jittering(np.random.default_rng(0), 0.05, 0.001))
    assert advice.kind == "seed noise" and "other seeds" in advice.text
    sd = float(advice.text.split("changes val_loss by ")[1].split()[0])
    assert sd == pytest.approx(0.05, rel=0.4)


def test_a_lead_beyond_noise_is_a_lead() -> None:
    assert alarms(seed_noise, lambda rng: jittering(rng, 0.005, 0.1), 50) == 0
    annealed = lambda rng: jittering(rng, 0.05, 0.001, "cosine")  # noqa: E731
    assert alarms(seed_noise, annealed, 5) == 0  # a falling rate hides what another seed would do


def test_repeats_tell_the_noise_of_seeds() -> None:
    rng = np.random.default_rng(1)
    trials = [
        TrialRecord(i, Config(x0=float(i % 5)), Status.DONE, (1 + 0.001 * (i % 5) + 0.1 * rng.normal(),), 1)
        for i in range(20)
    ]
    (advice,) = seed_noise(seen(SPACE, trials))
    assert "another seed changes val_loss" in advice.text
    apart = [TrialRecord(t.number, t.config, t.status, (10.0 * t.config["x0"] + 0.1 * t.best,), 1) for t in trials]
    assert [t for t in apart if t.config["x0"] == 0.0] and len(seed_noise(seen(SPACE, apart))) == 1
    lone = [TrialRecord(20, Config(x0=9.0), Status.DONE, (-50.0,), 1), *trials]
    assert seed_noise(seen(SPACE, lone)) == []


# -- whether to go on --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    scale: float
    epochs: int = 100

    @property
    def expected(self) -> float:
        return self.scale

    @property
    def low(self) -> float:
        return 0.0

    @property
    def high(self) -> float:
        return 3 * self.scale

    def chance(self, gain: float) -> float:
        return math.exp(-gain / self.scale)


def test_whether_to_go_on_follows_the_forecast() -> None:
    trials = study(SPACE, 20, lambda c: 1 + c.x0, np.random.default_rng(0))
    best = min(t.best for t in trials)
    kinds = [
        [a.kind for a in going_on(Evidence(SPACE, trials, 9, "val_loss", forecast=Said(scale * best)))]
        for scale in (1e-4, 0.005, 0.1)
    ]
    assert kinds == [["enough"], [], ["go on"]]
    assert going_on(seen(SPACE, trials)) == []
    real = outlook(History(tuple(trials)), 1)
    assert real is not None
    said = going_on(Evidence(SPACE, trials, 9, "val_loss", forecast=real))
    assert len(said) == (not 0.05 <= real.chance(0.01 * best) < 0.5)


# -- all together ------------------------------------------------------------------------------------------------------


def test_every_rule_survives_what_studies_may_hold() -> None:
    rng = np.random.default_rng(6)
    space = Space(lr=Float(1e-5, 1.0, log=True), m=Float(0.0, 0.9, when={"o": "sgd"}), o=Choice(["sgd", "adam"]), n=3)
    odd = [
        TrialRecord(0, Config(lr=50.0, o="lion", n=3), Status.DONE, (0.1, math.nan, 0.2), 3),  # of another space
        TrialRecord(1, Config(lr=0.1, o="adam", n=3), Status.INFEASIBLE, (math.nan,), 1, "val_loss = nan"),
        TrialRecord(2, Config(lr=0.1, o="adam", n=3), Status.FAILED, (), 1, "ValueError: no"),
        TrialRecord(3, Config(lr=0.2, o="sgd", m=0.5, n=3), Status.WAITING),
        TrialRecord(4, Config(lr=0.2, o="sgd", m=0.5, n=3), Status.CANCELLED, (math.inf, 0.3), 2),
        TrialRecord(5, Config(lr=0.3, o="sgd", m=0.5, n=3), Status.TRAINING, (0.3,), 9),
    ]
    more = study(space, 60, lambda c: c.lr + rng.normal(), rng, diverges)
    later = [TrialRecord(6 + t.number, t.config, t.status, t.values, 1, t.reason) for t in more]
    for trials in ([], odd, odd[:1], later, [*odd, *later], [t for t in later if t.status is Status.INFEASIBLE]):
        for rule in RULES:
            assert isinstance(rule(Evidence(space, trials, 9, "val_error", validation_size=100)), list)
        advise(space, trials, None, "val_accuracy", -1, 100)
