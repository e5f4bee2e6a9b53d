from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.errors import StudyError
from rheostat.search import transfer
from rheostat.search.transfer import Earlier, greedy, learn, scores, translated
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, Status, TrialRecord
from tests.spaces import spaces

SPACE = Space(
    lr=Float(1e-5, 1e-1, log=True), units=Int(8, 512, log=True), optimizer=Choice(["adam", "sgd"]), batch_size=32
)
ALONE = Space(lr=Float(1e-5, 1e-1, log=True))

values = st.lists(st.sampled_from([0.1, 0.2, 0.5, 3.0, math.nan, math.inf]), max_size=4).map(tuple)
outcomes = st.lists(st.tuples(st.sampled_from(list(Status)), values), max_size=25)


def study(space: Space, seed: int, found: Sequence[tuple[Status, tuple[float, ...]]], name: str = "old") -> Earlier:
    configs = space.sample(np.random.default_rng(seed), len(found))
    trials = [TrialRecord(i, c, *outcome) for i, (c, outcome) in enumerate(zip(configs, found, strict=True))]
    return Earlier(name, space, tuple(trials))


def measured(space: Space, seed: int, loss: Callable[[Config], float], trials: int = 40, name: str = "old") -> Earlier:
    configs = space.sample(np.random.default_rng(seed), trials)
    done = [TrialRecord(i, config, Status.DONE, (loss(config),)) for i, config in enumerate(configs)]
    return Earlier(f"{name}-{seed}", space, tuple(done))


def near(lr: float, units: float, unit: float = 1.0, shift: float = 0.0) -> Callable[[Config], float]:
    """A bowl over SPACE, on a scale of its own; adam is better."""

    def loss(config: Config) -> float:
        squares: float = math.log10(config.lr / lr) ** 2 + math.log2(config.units / units) ** 2
        return shift + unit * (squares + 2 * bool(config.optimizer == "sgd"))

    return loss


def rate(lr: float) -> Callable[[Config], float]:
    """How far a rate is from the right one, in powers of ten, at most 1."""
    return lambda config: min(abs(math.log10(config.lr / lr)), 1.0)


# -- configurations of another space -------------------------------------------------------------------------------


@settings(max_examples=40)
@given(space=spaces(), seed=st.integers(0, 10**6))
def test_a_configuration_of_the_same_space_is_itself(space: Space, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))[0]
    assert translated(space, space, config) == config


@settings(max_examples=60)
@given(space=spaces(), other=spaces(), seed=st.integers(0, 10**6))
def test_a_configuration_of_another_space_becomes_one_of_this(space: Space, other: Space, seed: int) -> None:
    config = other.sample(np.random.default_rng(seed))[0]
    found = translated(space, other, config)
    if found is not None:
        assert space.complete(found) == found


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, {}),
        ({"units": 600}, {"units": 512}),  # hardly outside
        ({"units": 5000}, None),
        ({"lr": 0.0}, None),  # no logarithm
        ({"lr": 5e-6}, {"lr": 1e-5}),
        ({"optimizer": "lion"}, None),
        ({"batch_size": 64}, {}),  # numbers differ by degree
        ({"batch_size": "all"}, None),  # and texts by kind
        ({"dropout": 0.5}, {}),
    ],
)
def test_values_outside_the_space(changed: dict[str, float], found: dict[str, float] | None) -> None:
    wide = Space(
        lr=Float(0.0, 1.0), units=Int(1, 10_000), optimizer=Choice(["adam", "sgd", "lion"]), dropout=Float(0.0, 1.0)
    )
    config = Config(lr=0.001, units=64, optimizer="adam", batch_size=32)
    expected = None if found is None else Config({**config, **found})
    assert translated(SPACE, wide, Config({**config, **changed})) == expected


def test_what_a_study_did_not_have_takes_its_likely_value() -> None:
    space = Space(
        lr=Float(1e-5, 1e-1, log=True),
        optimizer=Choice(["adam", "sgd"]),
        momentum=Float(0.0, 0.99, prior=0.9, when={"optimizer": "sgd"}),
        units=Int(0, 10),
        dropout=Float(0.0, 1.0),
    )
    old = Space(lr=Float(1e-5, 1e-1, log=True), units=Float(0.0, 10.0), dropout=0.25, optimizer=Choice(["adam", "sgd"]))
    config = Config(lr=0.01, optimizer="sgd", units=7.0, dropout=0.25)
    found = translated(space, old, config)
    assert found == Config(lr=0.01, optimizer="sgd", momentum=0.9, units=5, dropout=0.25)  # of another kind: units


def test_true_is_not_one() -> None:
    flag = Space(flag=Choice([True, False]))
    assert translated(flag, Space(flag=Choice([1, 0])), Config(flag=1)) is None


# -- what trials were worth ------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    found = [
        (Status.DONE, (0.9, 0.2)),
        (Status.PAUSED, (0.6, math.inf, 0.7)),
        (Status.CUT, (0.3,)),
        (Status.DONE, (50.0,)),
        (Status.DONE, (0.4, math.nan)),
        (Status.INFEASIBLE, (0.1, math.nan)),
        (Status.FAILED, ()),
        (Status.CANCELLED, (0.1,)),
        (Status.WAITING, ()),
    ]
    trials = study(SPACE, 0, found).trials
    # the best is 0.2; of 0.2, 0.3, 0.6 and 50 the middling one is 0.45, so the unit is 0.25
    expected = [0.0, 1.5, 0.4, 1.5, 1.5, 1.5, 1.5, math.nan, math.nan]
    np.testing.assert_allclose(scores(trials), expected, atol=1e-12)


def test_scores_of_trials_that_all_diverged_or_are_all_equal() -> None:
    bad = study(SPACE, 0, [(Status.INFEASIBLE, (math.nan,)), (Status.WAITING, ())])
    np.testing.assert_equal(scores(bad.trials), [1.5, math.nan])
    assert scores(study(SPACE, 0, [(Status.DONE, (3.0,))] * 4).trials).tolist() == [0, 0, 0, 0]


# -- the portfolio ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), functions=st.integers(1, 6), many=st.integers(1, 4))
def test_the_portfolio_against_every_other(seed: int, functions: int, many: int) -> None:
    """The gain is submodular, so that of the greedy choice is at least 1 - 1/e of the best: Nemhauser et al. 1978."""
    table = np.random.default_rng(seed).uniform(0, 1.5, (functions, 7))

    def gain(chosen: Sequence[int]) -> float:
        return float(np.mean(transfer.WORST - table[:, list(chosen)].min(axis=1)))

    found = greedy(table, many)
    assert len(set(found)) == len(found) == many
    assert gain(found[:1]) == max(gain([i]) for i in range(7))
    best = max(gain(some) for some in itertools.combinations(range(7), many))
    assert gain(found) >= (1 - 1 / math.e) * best - 1e-12
    for n in range(1, many):
        assert gain(found[: n + 1]) >= max(gain([*found[:n], i]) for i in range(7)) - 1e-12


def test_a_portfolio_of_fewer_configurations_than_asked_for() -> None:
    assert greedy(np.zeros((3, 2)), 5) == [0, 1]


def test_a_configuration_for_each_kind_of_study() -> None:
    """Half of the studies like small rates and half large ones; one middling configuration would suit neither."""
    old = [measured(ALONE, seed, rate(1e-4 if seed % 2 else 1e-2)) for seed in range(4)]
    found = [config.lr for config in learn(ALONE, old, first=2).first]
    assert min(abs(math.log10(lr / 1e-4)) for lr in found) < 0.3
    assert min(abs(math.log10(lr / 1e-2)) for lr in found) < 0.3


# -- priors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 2, 5])
def test_studies_that_agree_make_sure(many: int) -> None:
    """As certain as in a vote with `SHY` studies that know nothing: a quarter of a range is near its middle."""
    lr = [1e-3, 1e-3, 1e-3, 1e-3, 1e-5, 1e-4, 1e-2, 1e-1]
    losses = [0.1, 0.2, 0.3, 0.4, 5.0, 6.0, 7.0, 8.0]
    trials = tuple(
        TrialRecord(i, Config(lr=one, units=2 + i), Status.DONE, (loss,))
        for i, (one, loss) in enumerate(zip(lr, losses, strict=True))
    )
    space = Space(lr=Float(1e-5, 1e-1, log=True), units=Int(1, 64, prior=Prior(50, 0.6)))
    lessons = learn(space, [Earlier(f"old-{i}", space, trials) for i in range(many)])
    prior = lessons.space["lr"].prior
    assert prior.value == pytest.approx(1e-3)
    assert prior.sure == pytest.approx(min((many + transfer.SHY * 0.25) / (many + transfer.SHY), transfer.MOST_SURE))
    assert lessons.space["units"].prior == Prior(50, 0.6)  # the user knows better
    assert lessons.learnt == ("lr",)


def test_studies_that_disagree_say_nothing() -> None:
    agree = [measured(ALONE, seed, rate(1e-3)) for seed in range(4)]
    apart = [measured(ALONE, seed, rate(10.0 ** (-1.5 - seed))) for seed in range(4)]
    assert learn(ALONE, agree).space["lr"].prior.sure > 0.4
    assert "lr" not in learn(ALONE, apart).learnt


def test_the_category_of_good_trials_is_likely() -> None:
    old = [measured(SPACE, seed, near(1e-3, 64)) for seed in range(5)]
    prior = learn(SPACE, old).space["optimizer"].prior
    assert prior.value == "adam" and 0.6 < prior.sure <= transfer.MOST_SURE


def test_a_prior_comes_only_from_studies_that_tuned_the_hyperparameter() -> None:
    """Likely values were filled in, and fixed ones not compared with others."""
    old = Space(lr=Float(1e-5, 1e-1, log=True), units=64, optimizer="sgd")
    lessons = learn(SPACE, [measured(old, seed, lambda c: abs(math.log10(c.lr / 1e-3))) for seed in range(5)])
    assert lessons.learnt == ("lr",)
    assert all((config.units, config.optimizer) == (64, "sgd") for config in lessons.first)


def test_an_objective_that_is_constant_teaches_no_priors() -> None:
    lessons = learn(SPACE, [measured(SPACE, seed, lambda config: 1.0) for seed in range(3)])
    assert lessons.space == SPACE and len(lessons.first) == transfer.FIRST


# -- all together ----------------------------------------------------------------------------------------------------


def test_a_new_study_begins_near_the_best_of_earlier_ones_whatever_their_scales() -> None:
    """Measured by a bowl that none of them had, and beside configurations that are drawn evenly."""
    centers = [(2e-3, 80), (5e-3, 128), (3e-3, 50)]
    old = [
        measured(SPACE, seed, near(*center, unit=10.0 ** (3 * seed), shift=-seed))
        for seed, center in enumerate(centers)
    ]
    lessons = learn(SPACE, old)
    loss = near(3e-3, 90)
    even = np.mean([loss(config) for config in SPACE.sample(np.random.default_rng(9), 500)])
    assert max(map(loss, lessons.first[:3])) < even / 2
    assert loss(lessons.space.likely()) < even / 10
    assert lessons.space.likely().optimizer == "adam"
    assert lessons.used == ("old-0", "old-1", "old-2") and not lessons.left_out


@settings(max_examples=40)
@given(space=spaces(4), other=spaces(4), found=st.lists(outcomes, max_size=3), seed=st.integers(0, 10**6))
def test_lessons_fit_the_space_and_depend_on_the_studies_alone(
    space: Space, other: Space, found: list[list[tuple[Status, tuple[float, ...]]]], seed: int
) -> None:
    old = [study(space if i else other, seed + i, some, f"old-{i}") for i, some in enumerate(found)]
    try:
        lessons = learn(space, old)
    except StudyError:
        assert all(isinstance(transfer._read(space, one), str) for one in old)
        return
    assert {*lessons.used, *lessons.left_out} == {one.name for one in old}
    assert 1 <= len(lessons.first) == len(set(lessons.first)) <= transfer.FIRST
    assert all(space.complete(config) == config for config in lessons.first)
    assert {name: replace(part, prior=space[name].prior) for name, part in lessons.space.items()} == dict(space)
    assert all(lessons.space[name].prior == part.prior for name, part in space.items() if name not in lessons.learnt)
    assert Space.from_description(lessons.space.describe()) == lessons.space
    # the same again, and from values in other units: a power of two changes no digit
    units = [
        replace(one, trials=tuple(replace(t, values=tuple(v * 2.0**9 for v in t.values)) for t in one.trials))
        for one in old
    ]
    assert learn(space, old) == lessons == learn(space, units)


def test_many_long_studies() -> None:
    old = [measured(SPACE, seed, near(1e-3, 64), trials=200) for seed in range(10)]
    lessons = learn(SPACE, old, first=3)
    assert len(lessons.first) == 3 and lessons.space["lr"].prior.sure > 0.35


def test_studies_that_teach_nothing_are_named() -> None:
    bad = study(SPACE, 0, [(Status.INFEASIBLE, (math.nan,))] * 9, "diverged")
    other = measured(Space(depth=Int(1, 9)), 0, lambda config: config.depth, name="deep")
    few = measured(SPACE, 3, near(1e-3, 64), trials=3, name="few")
    lessons = learn(SPACE, [bad, other, few, measured(SPACE, 1, near(1e-3, 64))])
    assert lessons.used == ("old-1",) and list(lessons.left_out) == ["diverged", "deep-0", "few-3"]
    with pytest.raises(StudyError, match=r"diverged: .*\n.*deep-0: it tunes nothing that this space tunes"):
        learn(SPACE, [bad, other])
    with pytest.raises(StudyError, match="none was given"):
        learn(SPACE, [])


def test_what_was_learnt_in_words() -> None:
    lessons = transfer.Lessons(
        replace_prior(SPACE, lr=Prior(0.0031234, 0.5), optimizer=Prior("adam", 0.7)),
        (SPACE.likely(),),
        ("a", "b"),
        {"c": "its trials diverged"},
        ("lr", "optimizer"),
    )
    assert str(lessons) == (
        "from 2 earlier studies: lr near 0.00312, optimizer=adam; 1 configuration is tried first; "
        "nothing from c: its trials diverged"
    )


def replace_prior(space: Space, **priors: Prior) -> Space:
    parts = {name: replace(part, prior=priors.get(name, part.prior)) for name, part in space.items()}
    return Space({**parts, **space.fixed})
