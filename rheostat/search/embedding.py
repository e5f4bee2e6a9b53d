"""Points of a space as features, between which a distance means something.

A number is a feature as it is. A category is a column for each value, a side of the cube away from any other (one-hot).
A hyperparameter under a condition that is not active lies in the middle of its range (imputed) and, by a column that
says so, a side of the cube away from all active values: of the same length scale as its values, so that it counts as
much as they do. Lévesque et al. 2017, *Bayesian optimization for conditional hyperparameter spaces*, IJCNN; Swersky et
al. 2013, *Raiders of the lost architecture*, for kernels in which inactive values do not differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat.search.parzen import Line, axis_of
from rheostat.space import Choice, Space, contains
from rheostat.types import Scalar

Array = NDArray[np.float64]

MIDDLE = 0.5  # where inactive numbers lie
SIDE = math.sqrt(0.5)  # two columns that differ by this make a distance of 1


class Embedding:
    """`groups`: (features,), the place in the space of the hyperparameter behind each feature, without gaps.

    `continuous`: the places of continuous hyperparameters, and `columns` their features.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.axes = [axis_of(part) for part in space.values()]
        groups: list[int] = []
        self.continuous: list[int] = []
        self.columns: list[int] = []
        for place, part in enumerate(space.values()):
            if isinstance(part, Choice):
                groups += [place] * (len(part.values) + bool(part.when))
                continue
            if isinstance(self.axes[place], Line):
                self.continuous.append(place)
                self.columns.append(len(groups))
            groups += [place] * (1 + bool(part.when))
        self.groups = np.array(groups, dtype=np.intp)

    def features(self, points: Array) -> Array:
        """Of points (n, len(space)) of the unit cube, NaN where not active: (n, features)."""
        columns: list[Array] = []
        for place, part in enumerate(self.space.values()):
            units = points[:, place]
            inactive = np.isnan(units)
            if isinstance(part, Choice):
                codes = self.axes[place].encode(units)
                columns += [SIDE * (codes == value) for value in range(len(part.values))]
                columns += [SIDE * inactive] * bool(part.when)
            else:
                columns += [np.where(inactive, MIDDLE, units)]
                columns += [inactive.astype(float)] * bool(part.when)
        return np.column_stack([np.empty((len(points), 0)), *columns])

    def snapped(self, points: Array) -> Array:
        """The points with discrete values in the middle of their cells, and NaN for what is then not active."""
        found = points.copy()
        inside: dict[str, NDArray[np.bool_]] = {}
        for place, (name, part) in enumerate(self.space.tuned.items()):
            active = np.ones(len(points), dtype=np.bool_)
            for parent, allowed in part.when.items():
                if parent in self.space.fixed:
                    active &= contains(allowed, self.space.fixed[parent])
                else:
                    active &= inside[parent] & self._holds(parent, allowed, found)
            inside[name] = active
            units = self.axes[place].decode(self.axes[place].encode(found[:, place]))
            found[:, place] = np.where(active, units, math.nan)
        return found

    def _holds(self, parent: str, allowed: Sequence[Scalar], points: Array) -> NDArray[np.bool_]:
        """Whether the parent has one of these values."""
        part = self.space.tuned[parent]
        units, places = np.unique(points[:, list(self.space.tuned).index(parent)], return_inverse=True)
        held = [not math.isnan(unit) and contains(allowed, part.decode(unit)) for unit in units.tolist()]
        return np.array(held, dtype=np.bool_)[places]

    def drawn(self, n: int, rng: np.random.Generator) -> Array:
        """Points from the priors, everything active: (n, len(space))."""
        columns = [axis.decode(axis.draw_prior(n, rng)) for axis in self.axes]
        return np.column_stack([np.empty((n, 0)), *columns])
