"""Where does it train? The door of this room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rheostat.types import Job, Notice, Outcome, Report

Event = Report | Outcome | Notice


class Executor(Protocol):
    """Trains jobs somewhere and tells what happened.

    Every submitted job ends with exactly one `Outcome`, after its reports. A report may come twice (after a
    crash an epoch is trained again, with the same result); whoever records it drops the second.
    """

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs; train them in this order as places get free."""
        ...

    def poll(self, timeout_seconds: float) -> list[Event]:
        """What happened since the last call, waiting at most this long for something to happen."""
        ...
