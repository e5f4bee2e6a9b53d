from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.search.embedding import Embedding
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config
from tests.spaces import spaces

SPACE = Space(
    lr=Float(0.0, 1.0),
    optimizer=Choice(["adam", "sgd", "lamb"]),
    momentum=Float(0.0, 1.0, when={"optimizer": "sgd"}),
    kind=Choice(["a", "b"], when={"optimizer": ["sgd", "lamb"]}),
)


def distances(one: Config, other: Config) -> list[float]:
    """The distance in each hyperparameter's features."""
    embedding = Embedding(SPACE)
    features = embedding.features(np.array([SPACE.encode(one), SPACE.encode(other)]))
    squares = np.bincount(embedding.groups, (features[0] - features[1]) ** 2)
    return np.sqrt(squares).tolist()


def test_numbers_differ_by_their_distance_and_categories_by_a_side() -> None:
    one = Config(lr=0.2, optimizer="sgd", momentum=0.1, kind="a")
    assert distances(one, one) == [0, 0, 0, 0]
    assert distances(one, Config(lr=0.5, optimizer="lamb", kind="b")) == pytest.approx([0.3, 1, math.hypot(0.4, 1), 1])
    assert distances(one, Config(lr=0.2, optimizer="sgd", momentum=0.4, kind="a")) == pytest.approx([0, 0, 0.3, 0])


def test_inactive_hyperparameters_do_not_differ_and_are_a_side_from_active_ones() -> None:
    inactive = Config(lr=0.2, optimizer="adam")
    assert distances(inactive, Config(lr=0.3, optimizer="adam")) == pytest.approx([0.1, 0, 0, 0])
    middle = Config(lr=0.2, optimizer="sgd", momentum=0.5, kind="b")
    assert distances(inactive, middle) == pytest.approx([0, 1, 1, 1])


@given(space=spaces(), seed=st.integers(0, 100))
def test_a_snapped_point_is_that_of_the_configuration_it_decodes_to(space: Space, seed: int) -> None:
    embedding = Embedding(space)
    points = embedding.drawn(20, np.random.default_rng(seed))
    snapped = embedding.snapped(points)
    for point, found in zip(points, snapped, strict=True):
        config = space.decode(point)
        assert space.decode(np.nan_to_num(found)).key() == config.key()
        assert np.array_equal(np.isnan(found), [name not in dict(config) for name in space])
        discrete = [d for d in range(len(space)) if d not in embedding.continuous]
        assert found[discrete] == pytest.approx(space.encode(dict(config))[discrete], abs=1e-8, nan_ok=True)


@given(space=spaces())
def test_every_hyperparameter_has_features(space: Space) -> None:
    embedding = Embedding(space)
    assert sorted(set(embedding.groups.tolist())) == list(range(len(space)))
    points = np.array([space.encode(dict(config)) for config in space.sample(np.random.default_rng(0), 5)])
    features = embedding.features(points)
    assert features.shape == (5, len(embedding.groups)) and np.isfinite(features).all()
    for place, column in zip(embedding.continuous, embedding.columns, strict=True):
        active = ~np.isnan(points[:, place])
        assert (features[active, column] == points[active, place]).all()


def test_parents_that_are_numbers_or_fixed() -> None:
    space = Space(
        layers=Int(1, 3), width=Int(1, 9, when={"layers": [2, 3]}), mode="fast", x=Float(0, 1, when={"mode": "slow"})
    )
    points = Embedding(space).snapped(np.array([[0.1, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    assert np.isnan(points).tolist() == [[False, True, True], [False, False, True]]
