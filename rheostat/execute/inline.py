"""Training in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rheostat.train.base import Runner
from rheostat.types import Event, Job, Outcome, Report


class Inline:
    """Trains in this process. Each report reaches `sink` before the next epoch begins."""

    def __init__(self, runner: Runner, sink: Callable[[Sequence[Report]], None], threads: int | None = None) -> None:
        self._runner, self._sink, self._threads = runner, sink, threads
        self.places = runner.lanes
        self._jobs: dict[int, Job] = {}  # by trial, in the order of their coming
        self._begun: set[int] = set()

    @property
    def busy(self) -> int:
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._jobs.update((job.trial, job) for job in jobs)

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Trains the next jobs for as long as the runner does: to the end of one, or of an epoch of several."""
        if not self._jobs:
            return []
        jobs = list(self._jobs.values())[: self.places]
        self._begun = {job.trial for job in jobs}
        with training_threads(self._threads):
            events = self._runner.run(jobs, lambda report: self._sink([report]))
        for event in events:
            if isinstance(event, Outcome):
                del self._jobs[event.trial]
                self._begun.remove(event.trial)
        return events

    def drop_waiting(self) -> None:
        self._jobs = {trial: job for trial, job in self._jobs.items() if trial in self._begun}

    def close(self) -> None:
        self._jobs.clear()
        self._begun.clear()


@contextmanager
def training_threads(number: int | None) -> Iterator[None]:
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
