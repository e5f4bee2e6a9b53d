"""Training in worker processes on this machine.

The coordinator listens on a socket that only its user can open; workers are separate Python processes that
join it. One that dies costs the epoch it was training: its job goes back to the head of the queue and another
process takes its place. When the coordinator dies, its workers end themselves.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, Pipe, wait
from pathlib import Path

import cloudpickle

from rheostat.errors import CheckpointError, WorkerError
from rheostat.execute import wire
from rheostat.execute.worker import KEY_VARIABLE
from rheostat.train.base import Runner
from rheostat.types import Event, Job, Notice, Outcome, Report, Status

MAX_CRASHES, MAX_KILLS = 3, 20  # of workers on one trial, without an epoch in between
MAX_STARTS = 5  # of worker processes that never join, in a row


@dataclass
class _Worker:
    pid: int
    connection: Connection
    ready: bool = False  # it has the task, and may be given jobs
    jobs: dict[int, Job] = field(default_factory=dict)  # by trial


class LocalWorkers:
    """`places` worker processes, each with its share of the machine's threads.

    Raises WorkerError when the task cannot be sent to another process.
    """

    def __init__(
        self, runner: Runner, sink: Callable[[Sequence[Report]], None], places: int, threads: int | None = None
    ) -> None:
        self.places, self._lanes, self._sink = places * runner.lanes, runner.lanes, sink
        self._jobs: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._members: set[int] = set()  # every process that was ever ready
        self._deaths: dict[int, float] = {}  # by trial; 1 is one too many
        self._failed_starts = 0
        self._closed = False
        self.folder = Path(tempfile.mkdtemp(prefix="rheostat-"))  # 0700: only this user may enter
        self._key = secrets.token_bytes(32)
        self._setup = self._write_setup(runner, threads or max((os.cpu_count() or 1) // places, 1))
        self.address = str(self.folder / "socket")
        self._listener = Listener(self.address, family="AF_UNIX", authkey=self._key)
        self.key_path = self.folder / "key"
        self.key_path.write_text(self._key.hex())
        self.key_path.chmod(0o600)
        self._joined: deque[_Worker] = deque()
        self._bell, self._ring = Pipe(duplex=False)
        threading.Thread(target=self._accept, daemon=True).start()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for _ in range(places):
            self._start_process()

    @property
    def busy(self) -> int:
        return len(self._jobs) + sum(len(worker.jobs) for worker in self._workers)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._jobs.extend(jobs)
        self._hand_out()

    def poll(self, timeout_seconds: float) -> list[Event]:
        """What ended since the last call; starts a new process for each one that died."""
        reports: list[Report] = []
        events: list[Event] = []
        self._welcome()
        ready = wait([self._bell, *(w.connection for w in self._workers)], timeout_seconds)
        if self._bell in ready:
            self._welcome()
        for worker in list(self._workers):
            if worker.connection in ready:
                events += self._hear(worker, reports)
        if reports:
            self._sink(reports)
        for event in events:
            if isinstance(event, Notice) and event.kind == "fatal":
                raise CheckpointError(event.message)
        self._replace_dead()
        self._hand_out()
        return events

    def drop_waiting(self) -> None:
        self._jobs.clear()

    def close(self) -> None:
        """End every worker now; an epoch that is being trained is lost."""
        self._closed = True
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for worker in self._workers:
            worker.connection.close()
        self._listener.close()
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()

    def _write_setup(self, runner: Runner, threads: int) -> wire.Setup:
        path = self.folder / "runner"
        try:
            path.write_bytes(cloudpickle.dumps(runner))
        except Exception as cause:  # pickling runs the __reduce__ of anything in the user's task
            raise WorkerError(
                f"The task cannot be sent to worker processes ({type(cause).__name__}: {cause}). Make what it holds "
                "picklable, or train in this process with workers=1."
            ) from cause
        return wire.Setup(str(path), [p or str(Path.cwd()) for p in sys.path], str(Path.cwd()), threads)

    def _start_process(self) -> None:
        threads = str(self._setup.threads)
        environment = os.environ | {
            KEY_VARIABLE: self._key.hex(),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        errors = (self.folder / "errors").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "rheostat.execute.worker", self.address],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            process_group=0,  # Ctrl-C is for the coordinator alone
        )
        errors.close()
        self._processes[process.pid] = process

    def _accept(self) -> None:
        """In a thread of its own, so that a stranger who connects and says nothing holds nobody up."""
        while not self._closed:
            try:
                connection = self._listener.accept()
                kind, pid = wire.receive(connection)
                if kind == "hello":
                    self._joined.append(_Worker(pid, connection))
                    self._ring.send_bytes(b"!")
            except (AuthenticationError, EOFError, OSError):
                time.sleep(0.01)

    def _welcome(self) -> None:
        while self._bell.poll():
            self._bell.recv_bytes()
        while self._joined:
            worker = self._joined.popleft()
            try:
                wire.send(worker.connection, "setup", self._setup)
            except OSError:
                continue  # gone already
            self._workers.append(worker)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give waiting jobs to the workers that have the fewest."""
        while self._jobs:
            free = [worker for worker in self._workers if worker.ready and self._takes(worker, self._jobs[0])]
            if not free:
                return
            worker, job = min(free, key=lambda worker: len(worker.jobs)), self._jobs.popleft()
            worker.jobs[job.trial] = job
            with suppress(OSError):  # its death is noticed by the next poll, which puts the job back
                wire.send(worker.connection, "job", job)

    def _takes(self, worker: _Worker, job: Job) -> bool:
        """One whose worker died trains alone, so that it can only hurt itself."""
        if job.trial in self._deaths or any(trial in self._deaths for trial in worker.jobs):
            return not worker.jobs
        return len(worker.jobs) < self._lanes

    def _hear(self, worker: _Worker, reports: list[Report]) -> list[Event]:
        """Everything a worker has to say now; puts its job back if it died."""
        events: list[Event] = []
        try:
            while worker.connection.poll():
                kind, value = wire.receive(worker.connection)
                if kind == "ready":
                    worker.ready = True
                    self._members.add(worker.pid)
                    self._failed_starts = 0
                elif kind == "report":
                    reports.append(value)
                    self._deaths.pop(value.trial, None)
                elif kind == "outcome":
                    del worker.jobs[value.trial]
                    events.append(value)
                elif kind == "notice":
                    events.append(value)
        except (EOFError, OSError):
            events += self._bury(worker)
        return events

    def _bury(self, worker: _Worker) -> list[Event]:
        self._workers.remove(worker)
        worker.connection.close()
        if not worker.jobs:
            return []
        signal_number = self._signal_of(worker.pid)
        killed = signal_number in (None, signal.SIGKILL, signal.SIGTERM)  # by somebody, not by what it trained
        events: list[Event] = []
        for job in reversed(worker.jobs.values()):
            self._deaths[job.trial] = deaths = self._deaths.get(job.trial, 0) + 1 / (
                MAX_KILLS if killed else MAX_CRASHES
            )
            if deaths > 0.999:
                why = "were killed again and again: out of memory?" if killed else f"crashed (signal {signal_number})"
                words = f"the worker processes that trained it {why}"
                events.append(Outcome(job.trial, Status.FAILED, 0, words))
                continue
            self._jobs.appendleft(job)
            words = f"worker {worker.pid} died while training trial {job.trial}; the trial continues in another process"
            events.append(Notice("worker lost", words, job.trial))
        return events[::-1]

    def _signal_of(self, pid: int) -> int | None:
        """The signal by which a process of ours died; None for a guest's, 0 where it ended by itself."""
        if (process := self._processes.get(pid)) is None:
            return None
        try:
            return max(-process.wait(1.0), 0)
        except subprocess.TimeoutExpired:
            return None

    def _replace_dead(self) -> None:
        dead = [pid for pid, process in self._processes.items() if process.poll() is not None]
        for pid in dead:
            code = self._processes.pop(pid).returncode
            if pid not in self._members:
                self._failed_starts += 1
            if self._failed_starts >= MAX_STARTS:
                said = (self.folder / "errors").read_text(errors="replace").strip().splitlines()[-3:]
                raise WorkerError(
                    f"{self._failed_starts} worker processes ended before they could train (exit code {code}): "
                    f"{' | '.join(said) or 'they said nothing'}. Try workers=1 to train in this process."
                )
            self._start_process()
