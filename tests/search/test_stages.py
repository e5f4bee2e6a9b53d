from __future__ import annotations

import numpy as np
from hypothesis import given

from rheostat.search.stages import Stage, stages_of
from rheostat.space import Choice, Float, Space
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
