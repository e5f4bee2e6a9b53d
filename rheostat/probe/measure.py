"""A process of its own that trains a few steps at one batch size after another, and tells what they cost.

`batch_size.py` starts it as `python -m rheostat.probe.measure DESCRIPTOR`. It loads the task once and forks for each
measurement, so that each begins with the same memory, has a high-water mark of its own, and can run out of memory,
or be killed, without consequences.

What is measured is the private memory that a process may write to: data, weights, activations, allocators. That is
what RLIMIT_DATA limits and what a container counts, and files mapped from the disk, such as torch's libraries, are not
in it. `ru_maxrss` would not do: it survives fork and exec, so a small child of a large process inherits its peak.
"""

from __future__ import annotations

import itertools
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import torch

from rheostat.probe.sandbox import endless, examples, sandbox, update
from rheostat.train import randomness
from rheostat.train.loop import is_out_of_memory
from rheostat.train.task import Task, pick_device

LEAST_STEPS, LEAST_SLOW_STEPS, MOST_STEPS = 8, 4, 50  # the C library's allocator finds its balance in a few steps
SLOW_SECONDS = 5.0
LEFT_OVER_STEP = 2  # takes as few examples as the last batch of an epoch, which makes holes in the memory


class Setup(msgspec.Struct, frozen=True):
    """What is to be trained, and how; `task_path` is a Task written by `torch.save`."""

    task_path: str
    config: dict[str, Any]
    seed: int
    threads: int
    module_paths: list[str]


class Request(msgspec.Struct, frozen=True):
    """Train at this batch size for a few steps, and then on until `seconds` have passed."""

    batch_size: int
    limit_bytes: int
    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """What it cost; or an error, and whether that was a lack of memory. The first one is what the task takes alone."""

    examples: int = 0  # in the largest batch
    updates_per_epoch: int = 0
    step_seconds: float = math.nan
    examples_per_second: float = math.nan
    peak_bytes: int = 0
    error: str = ""
    detail: str = ""
    out_of_memory: bool = False


def serve(connection: Connection) -> None:
    """Answer requests until the other side hangs up."""
    setup = msgspec.msgpack.decode(connection.recv_bytes(), type=Setup)
    sys.path[:] = [*setup.module_paths, *(path for path in sys.path if path not in setup.module_paths)]
    try:
        task = torch.load(setup.task_path, weights_only=False)
    except Exception as cause:  # unpickling runs the user's code
        _send(connection, Answer(error=f"{type(cause).__name__}: {cause}", detail=traceback.format_exc()))
        return
    randomness.get_state()  # numpy imports a part of itself now, rather than in every child
    _send(connection, Answer(peak_bytes=_status()["VmData"]))
    while True:
        try:
            request = msgspec.msgpack.decode(connection.recv_bytes(), type=Request)
        except (EOFError, OSError):
            return
        connection.send_bytes(_forked(task, setup, request))


def _forked(task: Task, setup: Setup, request: Request) -> bytes:
    """The answer of a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writing, "wb") as answers:
                answers.write(msgspec.msgpack.encode(_answer(task, setup, request)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        content = answers.read()
    _, status = os.waitpid(child, 0)
    if content:
        return content
    died = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "without a word"
    return msgspec.msgpack.encode(Answer(error=f"the process ended ({died})", out_of_memory=True))


def _answer(task: Task, setup: Setup, request: Request) -> Answer:
    try:
        return _measured(task, setup, request)
    except Exception as cause:  # the user's model may raise anything
        words = f"{type(cause).__name__}: {cause}".splitlines()[0]
        lacking = is_out_of_memory(cause) or "could not create a" in words  # oneDNN's words for it
        return Answer(error=words, detail="" if lacking else traceback.format_exc(), out_of_memory=lacking)


def _measured(task: Task, setup: Setup, request: Request) -> Answer:
    with suppress(OSError):  # where memory is short all the same, the kernel is to end this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(setup.threads)
    on_cpu = _cap(task.device, request.limit_bytes)
    config = {**setup.config, "batch_size": request.batch_size, "accumulate": 1}
    left_over = (examples(task) or 0) % request.batch_size
    seconds, rates, sizes = [], [], []
    with sandbox(task, config, setup.seed) as training:
        training.rate, training.plateau = (lambda step: 0.0), None  # weights stay as they are, so nothing diverges
        for step, batch in enumerate(itertools.islice(endless(training), MOST_STEPS)):
            if step == LEFT_OVER_STEP and left_over > 1:  # a single one joins the batch before it
                batch = tuple(part[:left_over] for part in batch)
            started = time.perf_counter()
            update(training, batch)
            if not on_cpu:
                torch.accelerator.synchronize(training.device)
            seconds.append(time.perf_counter() - started)
            sizes.append(len(batch[-1]))
            rates.append(sizes[-1] / seconds[-1])
            enough = LEAST_STEPS if seconds[0] < SLOW_SECONDS else LEAST_SLOW_STEPS
            if step + 1 >= enough and sum(seconds[1:]) > request.seconds:
                break
        updates = training.batches.steps_per_epoch
        peak = peak_bytes() if on_cpu else torch.accelerator.max_memory_allocated(training.device)
    rate = max(rates[1:])  # what others do on this machine only makes steps slower; the first one warms up
    return Answer(max(sizes), updates, request.batch_size / rate, rate, peak)


def _cap(device_name: str, limit_bytes: int) -> bool:
    """Limit the memory of this process, or its share of the accelerator's; whether it trains on the CPU."""
    device = pick_device(device_name)
    if device.type == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        return True
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(limit_bytes / total, 1.0), device)
    return False


def peak_bytes() -> int:
    """The most private writable memory that this process has had: now, plus what has been given back since.

    Linux keeps a high-water mark of all address space alone. What has been unmapped since then were tensors.
    """
    fields = _status()
    return fields["VmData"] + fields["VmPeak"] - fields["VmSize"]


def _status() -> Mapping[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm"))
    return {name.rstrip(":"): int(kibibytes) * 1024 for name, kibibytes, _ in lines}


def _send(connection: Connection, answer: Answer) -> None:
    connection.send_bytes(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
