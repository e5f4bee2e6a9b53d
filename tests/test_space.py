from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rheostat.errors import SpaceError
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config
from tests.spaces import floats, ints, spaces

units = st.floats(0, 1)


@given(floats(), units)
def test_a_float_survives_the_unit_cube_exactly(part: Float, unit: float) -> None:
    value = part.decode(unit)
    assert part.low <= value <= part.high
    assert part.decode(part.encode(value)) == value
    assert float(json.loads(json.dumps(value))) == value


@given(ints(), units)
def test_an_int_survives_the_unit_cube_exactly(part: Int, unit: float) -> None:
    value = part.decode(unit)
    assert isinstance(value, int) and part.low <= value <= part.high
    assert (value - part.low) % (part.step or 1) == 0
    assert part.decode(part.encode(value)) == value


@given(ints())
def test_every_value_of_an_int_can_be_reached(part: Int) -> None:
    step = int(part.step or 1)
    for value in range(int(part.low), int(part.high) + 1, step):
        assert part.decode(part.encode(value)) == value


def test_linear_ints_are_equally_likely() -> None:
    part = Int(1, 4)
    counts = np.bincount([part.decode(u) for u in np.linspace(0, 1, 4001)[:-1]])
    assert counts.tolist() == [0, 1000, 1000, 1000, 1000]


def test_log_scale_is_uniform_in_the_logarithm() -> None:
    part = Float(1e-5, 1e-1, log=True)
    assert [part.decode(k / 4) for k in range(5)] == [
        1e-5,
        1e-4,
        1e-3,
        1e-2,
        1e-1,
    ]  # the article's candidates


@settings(max_examples=50)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_configurations_survive_encoding_text_and_checking(space: Space, seed: int) -> None:
    for config in space.sample(np.random.default_rng(seed), 5):
        assert space.complete(config) == config
        point = space.encode(config)
        assert space.decode(np.nan_to_num(point, nan=0.5)) == config
        assert {n for n, u in zip(space, point, strict=True) if math.isnan(u)} == set(space) - set(config)
        assert Config(json.loads(config.key())) == config


@settings(max_examples=50)
@given(spaces())
def test_a_space_survives_its_description(space: Space) -> None:
    again = Space.from_description(json.loads(json.dumps(space.describe())))
    assert again == space and again.fingerprint == space.fingerprint


def test_the_fingerprint_depends_on_the_parts_not_their_order() -> None:
    lr, units_ = Float(1e-5, 1e-1, log=True), Int(16, 512)
    assert Space(lr=lr, units=units_).fingerprint == Space(units=units_, lr=lr).fingerprint
    assert Space(lr=lr).fingerprint != Space(lr=Float(1e-5, 1e-1)).fingerprint
    assert Space(lr=lr).fingerprint == "42aea6199825"  # the same on every machine and in every release


def test_nested_conditions() -> None:
    space = Space(
        optimizer=Choice(["adam", "sgd"]),
        momentum=Choice([True, False], when={"optimizer": "sgd"}),
        beta=Float(0.5, 0.99, when={"momentum": True}),
        layers=Int(1, 3),
        units_3=Int(8, 16, when={"layers": range(3, 4)}),
    )
    seen = space.sample(np.random.default_rng(0), 300)
    for config in seen:
        assert ("momentum" in config) == (config.optimizer == "sgd")
        assert ("beta" in config) == (config.get("momentum") is True)
        assert ("units_3" in config) == (config.layers == 3)
    assert sum("beta" in config for config in seen) > 30


def test_a_condition_on_a_fixed_value_holds_or_not_for_good() -> None:
    part = Float(0.5, 0.9, when={"optimizer": ["sgd"]})
    assert "m" in Space(optimizer="sgd", m=part).sample(np.random.default_rng(0))[0]
    assert "m" not in Space(optimizer="adam", m=part).sample(np.random.default_rng(0))[0]


@pytest.mark.parametrize("sure", [0.4, 0.6, 0.9])
def test_a_prior_holds_the_mass_it_says(sure: float) -> None:
    part = Float(0, 1, prior=Prior(0.4, sure))
    drawn = np.array([part.quantile(u) for u in np.linspace(0.0005, 0.9995, 1000)])
    assert np.mean(np.abs(drawn - 0.4) <= 0.125) == pytest.approx(sure, abs=0.02)
    assert drawn.min() < 0.35 and drawn.max() > 0.45  # nothing is excluded


def test_a_prior_is_a_truncated_normal() -> None:
    part = Float(0, 1, prior=Prior(0.1, 0.5))
    peak = part._peak
    assert peak is not None
    a, b = (0 - peak.center) / peak.width, (1 - peak.center) / peak.width
    reference = stats.truncnorm(a, b, loc=peak.center, scale=peak.width)
    for u in (0.01, 0.3, 0.77, 0.99):
        assert part.quantile(u) == pytest.approx(reference.ppf(u), abs=1e-9)
        assert part.density(u) == pytest.approx(reference.pdf(u), rel=1e-9)


def test_the_prior_of_a_choice_is_its_probability() -> None:
    part = Choice(["a", "b", "c"], prior=Prior("b", 0.6))
    drawn = [part.decode(part.quantile(u)) for u in np.linspace(0.0005, 0.9995, 1000)]
    assert drawn.count("b") == pytest.approx(600, abs=2) and drawn.count("a") == pytest.approx(200, abs=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float(1, 1), "low must be less than high"),
        (lambda: Float(0, 1, log=True), "log scale needs low > 0"),
        (lambda: Float(0, math.inf), "finite"),
        (lambda: Float(0, 1, step=2), "step must be positive"),
        (lambda: Float(0, 1, prior=2), "from 0 to 1"),
        (lambda: Float(0, 1, prior=Prior(0.5, 1.5)), "between 0 and 1"),
        (lambda: Int(1, 2.5), "whole number"),
        (lambda: Choice([]), "at least one"),
        (lambda: Choice("adam"), "list of values"),
        (lambda: Choice(["a", "a"]), "twice"),
        (lambda: Choice([[1, 2]]), "name it by a text"),
        (lambda: Choice(["a"], prior="b"), "Known: a"),
        (lambda: Space(lr=[1, 2]), "give Float, Int, Choice"),
        (lambda: Space(a=Float(0, 1, when={"b": 1})), "Unknown hyperparameter 'b'"),
        (lambda: Space(a=Choice([1]), b=Float(0, 1, when={"a": 2})), "Unknown value"),
        (lambda: Space(a=Float(0, 1, when={"a": 0.5})), "circle"),
        (lambda: Space(a=Choice([1]), b=Float(0, 1, when={"a": []})), "never true"),
    ],
)
def test_a_wrong_space_is_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"leraning_rate": 0.1}, "Unknown hyperparameter 'leraning_rate'"),
        ({"lr": -0.1, "opt": "adam"}, "from 1e-05 to 0.1"),
        ({"lr": "fast", "opt": "adam"}, "from 1e-05 to 0.1"),
        ({"lr": True, "opt": "adam"}, "from 1e-05 to 0.1"),
        ({"lr": 0.1}, "No value for 'opt'"),
        ({"lr": 0.1, "opt": "adm"}, "Did you mean 'adam'"),
        ({"lr": 0.1, "opt": "adam", "m": 0.9}, "exists only when opt is 'sgd'"),
        ({"lr": 0.1, "opt": "adam", "epochs": 3}, "the space fixes it to 10"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(values: dict[str, object], words: str) -> None:
    space = Space(
        lr=Float(1e-5, 1e-1, log=True),
        opt=Choice(["adam", "sgd"]),
        m=Float(0, 1, when={"opt": "sgd"}),
        epochs=10,
    )
    with pytest.raises(SpaceError, match=words):
        space.complete(values)  # type: ignore[arg-type]
