"""Training in this process, one job after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rheostat.execute.base import Event
from rheostat.train.base import Runner
from rheostat.types import Job, Report


class Inline:
    """Trains in this process. Each report reaches `sink` before the next epoch begins."""

    places = 1

    def __init__(self, runner: Runner, sink: Callable[[Sequence[Report]], None], threads: int | None = None) -> None:
        self._runner, self._sink, self._threads = runner, sink, threads
        self._jobs: deque[Job] = deque()

    @property
    def busy(self) -> int:
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._jobs.extend(jobs)

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Trains the next job to its end, however long that takes."""
        if not self._jobs:
            return []
        job = self._jobs.popleft()
        with _threads(self._threads):
            return [self._runner.run(job, lambda report: self._sink([report]))]

    def drop_waiting(self) -> None:
        self._jobs.clear()

    def close(self) -> None:
        self._jobs.clear()


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Train with this number of torch's threads, and put back what was."""
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
