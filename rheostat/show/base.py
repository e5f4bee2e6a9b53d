"""How does the user follow a study? The door of this room."""

from __future__ import annotations

from typing import Protocol

from rheostat.types import Notice, Snapshot


class Watcher(Protocol):
    """Shows a study while it runs. Never raises for what it is shown, and never slows training noticeably."""

    def due(self) -> bool:
        """Whether a snapshot would be shown now; cheap, so that none is built in vain."""
        ...

    def update(self, snapshot: Snapshot) -> None:
        """How the study stands; the last one is shown at the end in any case."""
        ...

    def note(self, notice: Notice) -> None:
        """Something to tell at once; may be called from a signal handler."""
        ...

    def close(self) -> None:
        """Leave the final state on the screen. May be called twice."""
        ...
