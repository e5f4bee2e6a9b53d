"""How does a trial train? The door of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rheostat.types import Job, Outcome, Report

Send = Callable[[Report], None]


class Runner(Protocol):
    """Trains one job from wherever its trial stands until `job.until_epoch`.

    Exceptions of the user's code come out as an `Outcome` with status FAILED and a traceback; only
    KeyboardInterrupt and errors of Rheostat's own storage are raised.
    """

    def run(self, job: Job, send: Send) -> Outcome:
        """Train; hand each report to `send` as soon as it is measured."""
        ...
