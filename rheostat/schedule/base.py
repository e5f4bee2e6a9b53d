"""Who trains next, until when? The door of this room."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rheostat.types import Assignment, History


class Scheduler(Protocol):
    """A function of the history and the random numbers; it holds settings, never state.

    `adaptive` says whether results change what it assigns. The values in the history are minimised, and end at
    the last settled assignment of each trial: what a training trial has reported since is not shown.
    """

    adaptive: bool

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        """Assignments for at most `free` places, best first; `Stop` takes no place.

        A `Start` becomes the trial numbered `len(history.trials)`, the next one that plus 1, and so on.
        An empty list means that nothing can be assigned until a training trial is settled; where none is
        training, that the study is finished.
        """
        ...
