"""A worker process: joins a coordinator, trains the jobs it is given, and ends when the coordinator does.

Started by the coordinator as `python -m rheostat.execute.worker ADDRESS`, or by a user as `rheostat worker STUDY`.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from rheostat.errors import CheckpointError, WorkerError
from rheostat.execute import wire
from rheostat.types import Job, Notice, Outcome, Report

KEY_VARIABLE = "RHEOSTAT_WORKER_KEY"


def join(address: str, key: bytes) -> None:
    """Train for the coordinator at this address until it ends. Raises WorkerError when it is not there."""
    try:
        connection = Client(address, authkey=key)
    except (OSError, EOFError) as cause:
        raise WorkerError(
            f"No study can be reached at {address} ({cause}): its process has ended. Start it with `rheostat tune`."
        ) from None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator, which tells its workers
    wire.send(connection, "hello", os.getpid())
    inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    kind, setup = inbox.get()
    assert kind == "setup"
    runner = _set_up(setup)
    wire.send(connection, "ready", os.getpid())

    def send(report: Report) -> None:
        wire.send(connection, "report", report)

    jobs: dict[int, Job] = {}
    while True:
        while not jobs or not inbox.empty():
            _, job = inbox.get()
            jobs[job.trial] = job
        try:
            events = runner.run(list(jobs.values()), send)
        except CheckpointError as error:
            jobs.clear()
            events = [Notice("fatal", str(error))]
        for event in events:
            if isinstance(event, Outcome):
                del jobs[event.trial]
            wire.send(connection, "outcome" if isinstance(event, Outcome) else "notice", event)


def _listen(connection: Connection, inbox: queue.SimpleQueue[tuple[str, Any]]) -> None:
    """Read messages; when the coordinator is gone, end this process at once, also in the midst of training."""
    while True:
        try:
            inbox.put(wire.receive(connection))
        except (EOFError, OSError):
            os._exit(0)


def _set_up(setup: wire.Setup) -> Any:
    os.chdir(setup.folder)
    sys.path[:] = [*setup.module_paths, *(path for path in sys.path if path not in setup.module_paths)]
    import torch

    torch.set_num_threads(setup.threads)
    with Path(setup.runner_path).open("rb") as file:
        return pickle.load(file)


if __name__ == "__main__":
    join(sys.argv[1], bytes.fromhex(os.environ.pop(KEY_VARIABLE)))
