"""Where does it train? The door of this room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rheostat.types import Event, Job


class Executor(Protocol):
    """Trains jobs somewhere. Made with a `sink` that takes reports and returns when they are durable.

    Every submitted job ends with exactly one `Outcome`, after its reports have reached the sink. A report may
    come twice (after a crash an epoch is trained again, with the same result); the records keep the first.
    `places` is how many jobs train at once.
    """

    places: int

    @property
    def busy(self) -> int:
        """Jobs that are submitted and have not ended."""
        ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs; train them in this order as places get free."""
        ...

    def poll(self, timeout_seconds: float) -> list[Event]:
        """What ended since the last call, waiting at most this long for something to happen."""
        ...

    def drop_waiting(self) -> None:
        """Forget the jobs that have not begun; those in training go on."""
        ...

    def close(self) -> None:
        """Stop training now; what was reported and saved stays."""
        ...
