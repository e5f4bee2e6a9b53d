"""Which configuration next? The door of this room."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rheostat.types import Config, History


class Searcher(Protocol):
    """A function of the history and the random numbers; it holds settings, never state.

    `adaptive` says whether results change what it suggests. One that is not adaptive suggests the n-th
    configuration for the n-th trial whatever was measured, so its study need not wait for results.
    """

    adaptive: bool

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        """Up to `n` configurations for the trials numbered from `len(history.trials)`.

        Fewer than `n` where the space is used up (a grid).
        """
        ...
