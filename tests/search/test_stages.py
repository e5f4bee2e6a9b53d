from __future__ import annotations

import math

import numpy as np
from hypothesis import given

from rheostat.search.stages import Stage, stages_of, untried_draw
from rheostat.space import Choice, Float, Int, Space
from tests.spaces import spaces

NESTED = Space(
    optimizer=Choice(["adam", "sgd"]),
    lr=Float(1e-5, 1e-1, log=True),
    momentum=Float(0.0, 1.0, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    damping=Float(0.0, 1.0, when={"nesterov": False}),
    beta=Float(0.0, 1.0, when={"optimizer": "adam"}),
)


def test_hyperparameters_under_one_condition_are_chosen_together_after_their_parents() -> None:
    assert stages_of(NESTED) == [
        Stage(own=(0, 1), given=()),
        Stage(own=(2, 3), given=(0, 1)),
        Stage(own=(5,), given=(0, 1)),
        Stage(own=(4,), given=(0, 1, 2, 3)),
    ]


@given(space=spaces())
def test_every_hyperparameter_has_a_stage_in_which_it_is_active_where_all_others_are(space: Space) -> None:
    stages = stages_of(space)
    assert sorted(place for stage in stages for place in stage.own) == list(range(len(space)))
    met: set[int] = set()
    for stage in stages:
        assert set(stage.given) <= met
        met |= set(stage.own)
    for config in space.sample(np.random.default_rng(0), 20):
        active = ~np.isnan(space.encode(config))
        for stage in stages:
            assert len({bool(active[place]) for place in stage.own}) == 1
            assert not active[stage.own[0]] or active[list(stage.given)].all()


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
