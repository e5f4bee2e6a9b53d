"""How does a trial train? The door of this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from rheostat.types import Event, Job, Report

Send = Callable[[Report], None]


class Runner(Protocol):
    """Trains jobs from wherever their trials stand until `job.until_epoch`.

    Exceptions of the user's code come out as an `Outcome` with status FAILED and a traceback; only
    KeyboardInterrupt and errors of Rheostat's own storage are raised.
    """

    lanes: int  # how many jobs it can train at once

    def run(self, jobs: Sequence[Job], send: Send) -> list[Event]:
        """Train some of these jobs (at most `lanes`, at least one) for a while; who has ended, and how.

        Hands each report to `send` as soon as it is measured. A job that has not ended is given again, perhaps
        beside others.
        """
        ...
