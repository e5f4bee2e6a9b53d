from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from rheostat.search.random import Random, untried_draw
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, History
from tests.search.test_contract import grown, keys

KS_AT_ONE_PERCENT = 1.63  # the 99% quantile of the Kolmogorov distribution


def ks_statistic(units: list[float], part: Float) -> float:
    """The largest distance between the units' distribution and the prior's, at the prior's quantiles."""
    levels = np.linspace(0.01, 0.99, 99)
    below = np.searchsorted(np.sort(units), [part.quantile(p) for p in levels], side="right") / len(units)
    return float(np.abs(below - levels).max())


@pytest.mark.parametrize(
    "part",
    [Float(0.0, 1.0), Float(1e-5, 1e-1, log=True, prior=1e-3), Float(0.0, 0.8, prior=Prior(0.0, 0.8))],
)
def test_numbers_follow_the_prior(part: Float) -> None:
    configs = Random(Space(x=part)).suggest(History(), 4000, np.random.default_rng(0))
    assert ks_statistic([part.encode(c.x) for c in configs], part) < KS_AT_ONE_PERCENT / math.sqrt(4000)


def test_a_prior_is_told_from_its_absence() -> None:
    """The yardstick of the test above can fail."""
    part = Float(1e-5, 1e-1, log=True, prior=1e-3)
    configs = Random(Space(x=Float(1e-5, 1e-1, log=True))).suggest(History(), 4000, np.random.default_rng(0))
    assert ks_statistic([part.encode(c.x) for c in configs], part) > 4 * KS_AT_ONE_PERCENT / math.sqrt(4000)


def test_choices_follow_the_prior() -> None:
    space = Space(optimizer=Choice(["adam", "sgd", "lamb"], prior=Prior("adam", 0.7)), lr=Float(0.0, 1.0))
    configs = Random(space).suggest(History(), 4000, np.random.default_rng(0))
    seen = Counter(c.optimizer for c in configs)
    for name, probability in (("adam", 0.7), ("sgd", 0.15), ("lamb", 0.15)):
        spread = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(seen[name] / 4000 - probability) < 3 * spread


def test_the_first_trials_of_a_finite_space_follow_the_prior() -> None:
    space = Space(optimizer=Choice(["adam", "sgd", "lamb"], prior=Prior("adam", 0.7)))
    first = [Random(space).suggest(History(), 1, np.random.default_rng(i))[0].optimizer for i in range(600)]
    assert abs(first.count("adam") / 600 - 0.7) < 3 * math.sqrt(0.21 / 600)


def test_hyperparameters_are_independent() -> None:
    space = Space(a=Float(0.0, 1.0), b=Float(0.0, 1.0))
    configs = Random(space).suggest(History(), 2000, np.random.default_rng(0))
    correlation = np.corrcoef([[c.a for c in configs], [c.b for c in configs]])[0, 1]
    assert abs(correlation) < 3 / math.sqrt(2000)


def test_a_finite_space_ends_with_its_last_configuration_however_unlikely() -> None:
    space = Space(a=Choice([1, 2, 3, 4], prior=Prior(1, 0.9999)), b=Choice(["x", "y"], prior=Prior("x", 0.9999)))
    searcher, rng = Random(space), np.random.default_rng(0)
    configs = searcher.suggest(History(), 20, rng)
    assert sorted(keys(configs)) == sorted(Config(a=a, b=b).key() for a in (1, 2, 3, 4) for b in ("x", "y"))
    assert searcher.suggest(grown(History(), configs), 20, rng) == []


def test_a_configuration_off_the_steps_uses_up_nothing() -> None:
    space = Space(width=Int(8, 24, step=8))
    history = grown(History(), [Config(width=9), Config(width=10), Config(width=16)])
    configs = Random(space).suggest(history, 9, np.random.default_rng(0))
    assert sorted(c.width for c in configs) == [8, 24]


def test_a_space_with_nothing_to_tune_has_one_configuration() -> None:
    searcher = Random(Space(lr=0.1))
    assert searcher.suggest(History(), 3, np.random.default_rng(0)) == [Config(lr=0.1)]


def test_a_draw_that_is_not_known() -> None:
    space, rng = Space(a=Int(1, 3), b=Choice([1], when={"a": 3})), np.random.default_rng(0)
    known: set[str] = set()
    for _ in range(3):
        config = untried_draw(space, known, rng)
        assert config is not None and config.key() not in known
        known.add(config.key())
    assert untried_draw(space, known, rng) is None


def test_where_a_space_has_no_end_a_draw_may_be_known() -> None:
    space = Space(a=Choice([1, 2]), x=Float(0.0, 1.0, when={"a": 2}))
    always_one = type("Zeros", (), {"random": lambda self, shape: np.zeros(shape)})()
    config = untried_draw(space, {'{"a": 1}'}, always_one)
    assert config is not None and config.a == 1 and not math.isnan(config.a)
