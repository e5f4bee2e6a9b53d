from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from rheostat.errors import CheckpointError, WorkerError
from rheostat.execute.base import Executor
from rheostat.execute.inline import Inline
from rheostat.execute.local import LocalWorkers
from rheostat.train.base import Send
from rheostat.types import Config, Event, Job, Notice, Outcome, Report, Status


class Counts:
    """Trains nothing: reports each epoch, slowly; does to its process what the configuration says."""

    lanes = 1

    def run(self, jobs: Sequence[Job], send: Send) -> list[Event]:
        return [self._run(jobs[0], send)]

    def _run(self, job: Job, send: Send) -> Outcome:
        deed = job.config.get("deed")
        for epoch in range(1, job.until_epoch + 1):
            if deed == "abort":
                os.abort()
            if deed == "kill" and epoch == 2 and not Path(job.config.mark).exists():
                Path(job.config.mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if deed == "disk":
                raise CheckpointError("Cannot write the checkpoint: the disk is full. Free some space.")
            time.sleep(job.config.get("seconds", 0.0))
            send(Report(job.trial, epoch, epoch, {"v": float(torch.get_num_threads()), "pid": float(os.getpid())}))
        return Outcome(job.trial, Status.PAUSED, job.until_epoch)


def jobs(n: int, until: int = 3, **config: object) -> list[Job]:
    return [Job(trial, Config(config), trial, until, 9) for trial in range(n)]  # type: ignore[arg-type]


def finish(executor: Executor, wanted: int) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + 60
    while sum(isinstance(event, Outcome) for event in events) < wanted:
        assert time.monotonic() < deadline, events
        events += executor.poll(0.2)
    return events


def test_inline_trains_in_order_and_puts_the_threads_back() -> None:
    seen: list[Report] = []
    executor = Inline(Counts(), seen.extend, threads=1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    executor.submit(jobs(3))
    assert executor.busy == 3
    events = finish(executor, 3)
    assert [e.trial for e in events if isinstance(e, Outcome)] == [0, 1, 2] and executor.busy == 0
    assert {r.metrics["v"] for r in seen} == {1.0} and torch.get_num_threads() == 2
    torch.set_num_threads(before)
    executor.submit(jobs(2))
    executor.drop_waiting()
    assert executor.poll(0) == []


@pytest.fixture
def seen() -> list[Report]:
    return []


def test_workers_share_the_jobs_and_survive_kill_9(tmp_path: Path, seen: list[Report]) -> None:
    executor = LocalWorkers(Counts(), seen.extend, places=2, threads=1)
    try:
        mark = str(tmp_path / "killed")
        executor.submit([*jobs(4, deed="kill", mark=mark, seconds=0.05)])
        events = finish(executor, 4)
        assert sorted(e.trial for e in events if isinstance(e, Outcome)) == [0, 1, 2, 3]
        lost = [e for e in events if isinstance(e, Notice)]
        assert lost and lost[0].kind == "worker lost" and "continues in another process" in lost[0].message
        for trial in range(4):
            assert {r.epoch for r in seen if r.trial == trial} == {1, 2, 3}
        assert {r.metrics["v"] for r in seen} == {1.0}
        pids = {int(r.metrics["pid"]) for r in seen}
        assert len(pids) >= 2 and os.getpid() not in pids
    finally:
        executor.close()
    assert not any(psutil.pid_exists(pid) for pid in pids) and not executor.folder.exists()


def test_a_trial_that_crashes_its_process_fails_alone(seen: list[Report]) -> None:
    executor = LocalWorkers(Counts(), seen.extend, places=2)
    try:
        executor.submit([Job(7, Config(deed="abort"), 0, 3, 9), *jobs(2)])
        events = finish(executor, 3)
        (failed,) = [e for e in events if isinstance(e, Outcome) and e.status is Status.FAILED]
        assert failed.trial == 7 and "crashed (signal 6)" in failed.reason
    finally:
        executor.close()


def test_a_full_disk_in_a_worker_stops_the_run_in_words(seen: list[Report]) -> None:
    executor = LocalWorkers(Counts(), seen.extend, places=2)
    try:
        executor.submit(jobs(1, deed="disk"))
        with pytest.raises(CheckpointError, match="disk is full"):
            finish(executor, 1)
    finally:
        executor.close()


def test_a_runner_that_cannot_travel_is_refused_in_words() -> None:
    class Holds(Counts):
        lock = None

        def __init__(self) -> None:
            self.held = threading.Lock()

    with pytest.raises(WorkerError, match="cannot be sent to worker processes.*workers=1"):
        LocalWorkers(Holds(), lambda reports: None, places=2)


def unpickled() -> Counts:
    raise ImportError("no module named secret_sauce")


class Broken(Counts):
    def __reduce__(self) -> object:  # type: ignore[override]
        return unpickled, ()


def test_workers_that_cannot_start_are_told_in_words() -> None:
    executor = LocalWorkers(Broken(), lambda reports: None, places=2)
    try:
        executor.submit(jobs(1))
        with pytest.raises(WorkerError, match="secret_sauce"):
            finish(executor, 1)
    finally:
        executor.close()


def test_workers_end_with_their_coordinator(seen: Sequence[Report]) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # a coordinator that dies without a word
        executor = LocalWorkers(Counts(), lambda reports: None, places=2)
        executor.submit(jobs(2, until=10_000, seconds=0.01))
        for _ in range(100):
            executor.poll(0.1)
            if executor.busy and all(worker.jobs for worker in executor._workers) and len(executor._workers) == 2:
                break
        os.write(write, ",".join(str(w.pid) for w in executor._workers).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    pids = [int(pid) for pid in os.read(read, 100).decode().split(",")]
    os.waitpid(child, 0)
    os.close(read)
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "an orphan trains on"
        time.sleep(0.05)
