"""Spaces for the tuners that are built on ConfigSpace."""

from __future__ import annotations

from ConfigSpace import Categorical, ConfigurationSpace
from ConfigSpace import Float as RealNumber
from ConfigSpace import Integer as WholeNumber

from rheostat.space import Choice, Int, Space


def configuration_space(space: Space, seed: int) -> ConfigurationSpace:
    """The space with the indices of categories, as texts, for their values."""
    made = ConfigurationSpace(seed=seed)
    for name, part in space.items():
        if isinstance(part, Choice):
            made.add(Categorical(name, [str(index) for index in range(len(part.values))]))
        elif isinstance(part, Int):
            made.add(WholeNumber(name, (int(part.low), int(part.high)), log=part.log))
        else:
            made.add(RealNumber(name, (part.low, part.high), log=part.log))
    return made
