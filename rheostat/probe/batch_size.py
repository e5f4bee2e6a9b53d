"""What do batch sizes cost: how large a batch fits in memory, and how fast is each?

Batch sizes are tried in a process of its own (`measure.py`), doubling as long as they fit. Memory grows in a straight
line, a + b * batch size, since what a batch needs (its activations) is as much for each example. The line foretells the
largest batch; that one is tried as well, and others beside it, until one is known to fit and one at most a tenth
larger is known not to.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import psutil
import torch

from rheostat.errors import SettingError, TaskError, WorkerError
from rheostat.probe.measure import Answer, Request, Setup
from rheostat.probe.sandbox import Progress, examples, nobody
from rheostat.probe.words import Rows, figure, listed, plain, size
from rheostat.train.task import Task, pick_device, tensors_of
from rheostat.types import Scalar

LEFT_FREE = 0.1  # of the memory that is free, where no limit is given
CLOSE = 1.1  # a batch so many times as large as one that fits does not fit
TIMED_SECONDS, TRIED_SECONDS = 0.3, 2.0  # for each batch size, and for the largest
SLOW_STEP_SECONDS = 10.0  # larger batches than one whose step takes so long are foretold, not tried
LONGEST_STEP_SECONDS = 60.0  # of the largest batch, so that it is tried at all
MOST_SIZE = 2**20  # where the number of examples is not known
NEARLY_FASTEST = 0.9


@dataclass(frozen=True)
class Cost:
    """What training at one batch size costs; memory is the most that the process needed."""

    batch_size: int
    updates_per_epoch: int
    step_seconds: float
    examples_per_second: float
    memory_bytes: int


@dataclass(frozen=True)
class BatchProbe:
    """What a batch probe found.

    `largest` is the largest batch that fits in `limit_bytes`: one that was tried, if it is `verified`, and then none a
    tenth larger fits; else `foretold`, what the line through the costs says (None where it does not rise). It is the
    whole data set where that fits. Memory is `fixed_bytes` and `bytes_per_example` for each example of a batch.
    """

    device: str
    threads: int
    examples: int | None
    costs: tuple[Cost, ...]
    limit_bytes: int
    fixed_bytes: float
    bytes_per_example: float
    foretold: int | None
    largest: int
    verified: bool

    @property
    def fastest(self) -> Cost:
        """The smallest batch size that is nearly (to a tenth) as fast as the fastest."""
        best = max(cost.examples_per_second for cost in self.costs)
        return next(cost for cost in self.costs if cost.examples_per_second >= NEARLY_FASTEST * best)

    def memory_bytes(self, batch_size: int) -> float:
        """What training at this batch size is foretold to need."""
        return self.fixed_bytes + self.bytes_per_example * batch_size

    def accumulate(self, batch_size: int) -> int:
        """In how many parts to train this batch size (`accumulate` of a configuration), so that a part fits."""
        return math.ceil(batch_size / self.largest)

    @property
    def words(self) -> str:
        return "\n".join(_words(self))

    @property
    def table(self) -> Rows:
        titles = ("batch size", "updates per epoch", "step", "examples per second", "memory")
        rows = [
            (
                str(cost.batch_size),
                f"{cost.updates_per_epoch:,}",
                f"{cost.step_seconds * 1000:.3g} ms",
                figure(cost.examples_per_second),
                size(cost.memory_bytes),
            )
            for cost in self.costs
        ]
        return Rows(titles, tuple(rows), frozenset(titles))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values."""
        described = {**asdict(self), "fastest": self.fastest.batch_size, "words": self.words}
        return {name: plain(value) for name, value in described.items()}


def updates_per_epoch(examples: int, batch_size: int) -> int:
    """How often the weights change in an epoch: N for batch size 1, once for N, N / B rounded up between.

    A single left-over example joins the batch before it.

    >>> [updates_per_epoch(1000, size) for size in (1, 32, 300, 999, 1000)]
    [1000, 32, 4, 1, 1]
    """
    return examples // batch_size + (examples % batch_size > 1)


def batch_probe(
    task: Task,
    config: Mapping[str, Scalar],
    sizes: Sequence[int] | None = None,
    memory_limit_bytes: int | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = nobody,
) -> BatchProbe:
    """Measure time and memory of training at these batch sizes (1, 2, 4, ..., all examples), and foretell the largest.

    The limit is on all private memory of a process that trains, data and interpreter included, or on the memory of
    an accelerator; without one it is nine tenths of what is free. This process is in no danger: everything runs in
    another one, which may not take more than the limit. Validation is not measured; it goes through the network in
    pieces of a size of its own.

    Raises TaskError where no batch size can be trained, WorkerError where the task cannot be sent to another process,
    and SettingError for a wrong argument, or a system other than Linux.
    """
    if sys.platform != "linux":
        raise SettingError(f"The batch probe measures memory as Linux counts it, and this is {sys.platform}.")
    if any(tensor.device.type != "cpu" for tensor in tensors_of(task.train)):
        raise TaskError("The training data are on an accelerator: give them in main memory, and they are moved there.")
    most = examples(task)
    wanted = _sizes(sizes, most)
    limit = _limit(memory_limit_bytes, task)
    costs: list[Cost] = []
    too_large = None  # the smallest batch known not to fit
    with _measuring(task, config, seed, threads) as measurer:
        if pick_device(task.device).type == "cpu" and limit <= measurer.alone_bytes:
            raise TaskError(
                f"Within {size(limit)} of memory nothing can be trained: {size(measurer.alone_bytes)} are taken by "
                "Python, torch and the data alone."
            )
        for number, batch_size in enumerate(wanted):
            progress(number / len(wanted))
            answer = measurer.ask(batch_size, limit, TIMED_SECONDS)
            if answer.out_of_memory:
                too_large = batch_size
                break
            if answer.error and batch_size == 1 and len(wanted) > 1:  # BatchNorm cannot normalise one example
                continue
            if answer.error and costs and most is None:  # one long text, or a loader, has no such batches
                too_large = batch_size
                break
            costs.append(_cost(batch_size, answer))
            if answer.step_seconds > SLOW_STEP_SECONDS:
                break
        if not costs:
            raise TaskError(
                f"Not even a batch of {too_large} fits in {size(limit)}: give more memory, or a smaller network."
            )
        fixed, slope = _line(costs)
        foretold = max(int((limit - fixed) / slope), 1) if slope > 0 else None
        fits, verified = _searched(measurer, costs, limit, foretold, too_large or (most or MOST_SIZE) + 1)
    return BatchProbe(
        str(pick_device(task.device)), threads, most, tuple(costs), limit, fixed, slope, foretold, fits, verified
    )


def _searched(
    measurer: _Measurer, costs: Sequence[Cost], limit: int, foretold: int | None, too_large: int
) -> tuple[int, bool]:
    """The largest batch that fits, and whether it was tried. `too_large` and all above it do not, or are not there."""
    fits, failures = costs[-1].batch_size, 0
    guess = min(foretold or too_large, too_large - 1)
    while too_large - 1 > fits and too_large > CLOSE * fits:
        guess = min(max(guess, fits + 1), too_large - 1)
        if costs[-1].step_seconds * guess / costs[-1].batch_size > LONGEST_STEP_SECONDS:
            return guess, False
        answer = measurer.ask(guess, limit, TRIED_SECONDS)
        failed = bool(answer.error)
        failures += failed
        fits, too_large = (fits, guess) if failed else (guess, too_large)
        beside = guess / 1.07 if failed else guess * 1.07
        guess = int(beside if failures < 2 else math.sqrt(fits * too_large))  # the line was wrong
    return fits, True


def _line(costs: Sequence[Cost]) -> tuple[float, float]:
    """Fixed bytes and bytes per example, by the smallest and the largest batch.

    Those between say less: the holes that an allocator leaves are largest for tensors of 1 to 32 MB.
    """
    first, last = costs[0], costs[-1]
    if last.memory_bytes <= first.memory_bytes:
        return float(last.memory_bytes), 0.0
    slope = (last.memory_bytes - first.memory_bytes) / (last.batch_size - first.batch_size)
    return first.memory_bytes - slope * first.batch_size, slope


def _sizes(sizes: Sequence[int] | None, most: int | None) -> list[int]:
    if sizes is None:
        powers = [2**n for n in range((most or MOST_SIZE).bit_length()) if 2**n <= (most or MOST_SIZE)]
        return powers if most is None or powers[-1] == most else [*powers, most]
    bad = [s for s in sizes if not isinstance(s, int) or isinstance(s, bool) or not 1 <= s <= (most or MOST_SIZE)]
    if bad or not sizes:
        raise SettingError(f"sizes={list(sizes)!r}: give whole numbers from 1 to {most or MOST_SIZE}.")
    return sorted(set(sizes))


def _limit(given: int | None, task: Task) -> int:
    """The bytes that training may take."""
    if given is not None:
        if given < 1:
            raise SettingError(f"memory_limit_bytes={given!r}: give a positive number, such as 2_000_000_000.")
        return given
    device = pick_device(task.device)
    free: float = free_bytes() if device.type == "cpu" else torch.accelerator.get_memory_info(device)[0]
    return math.floor(free * (1 - LEFT_FREE))


def free_bytes() -> int:
    """The main memory that may still be taken, on this machine and in this container."""
    free: list[int] = [psutil.virtual_memory().available]
    for limit, used in (
        ("memory.max", "memory.current"),  # of cgroups, version 2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # and version 1
    ):
        root = Path("/sys/fs/cgroup")
        if (root / limit).is_file() and (root / used).is_file():
            most = (root / limit).read_text().strip()
            if most != "max":
                free.append(max(int(most) - int((root / used).read_text()), 0))
    return min(free)


def _cost(batch_size: int, answer: Answer) -> Cost:
    if answer.error:
        raise TaskError(f"A batch of {batch_size} cannot be trained: {answer.error}\n\n{answer.detail}".rstrip())
    if answer.examples < batch_size // 2:
        raise TaskError(
            f"The DataLoader gave a batch of {answer.examples}, not {batch_size}: let task.train be a function of the "
            "configuration that makes a DataLoader with batch_size=config.batch_size."
        )
    return Cost(
        batch_size, answer.updates_per_epoch, answer.step_seconds, answer.examples_per_second, answer.peak_bytes
    )


# -- the process that measures -------------------------------------------------------------------------------


class _Measurer:
    """The other process."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection, errors_path: Path) -> None:
        self._process, self._connection, self._errors_path = process, connection, errors_path
        self.alone_bytes = 0  # taken before anything is trained

    def ask(self, batch_size: int, limit_bytes: int, seconds: float) -> Answer:
        """What a batch size costs."""
        self.send(Request(batch_size, limit_bytes, seconds))
        return self.hear()

    def send(self, message: Setup | Request) -> None:
        try:
            self._connection.send_bytes(msgspec.msgpack.encode(message))
        except OSError:
            raise self._ended() from None

    def hear(self) -> Answer:
        try:
            return msgspec.msgpack.decode(self._connection.recv_bytes(), type=Answer)
        except (EOFError, OSError):
            raise self._ended() from None

    def _ended(self) -> WorkerError:
        code = self._process.wait()
        said = self._errors_path.read_text(errors="replace").strip()[-2000:]
        return WorkerError(f"The process that measures ended (code {code}). {said or 'It said nothing.'}")


@contextmanager
def _measuring(task: Task, config: Mapping[str, Scalar], seed: int, threads: int) -> Iterator[_Measurer]:
    """A process that has the task, as long as it is needed."""
    ours, theirs = Pipe()
    with tempfile.TemporaryDirectory(prefix="rheostat-") as folder, ours:  # only this user may enter it
        task_path, errors_path = Path(folder) / "task", Path(folder) / "errors"
        _write(task, task_path)
        with errors_path.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "rheostat.probe.measure", str(theirs.fileno())],
                env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                process_group=0,  # Ctrl-C is for this process, which ends that one
            )
        theirs.close()
        try:
            measurer = _Measurer(process, ours, errors_path)
            measurer.send(Setup(str(task_path), dict(config), seed, threads, [p or str(Path.cwd()) for p in sys.path]))
            started = measurer.hear()
            if started.error:
                raise WorkerError(f"The task cannot be loaded in another process: {started.error}\n\n{started.detail}")
            measurer.alone_bytes = started.peak_bytes
            task_path.unlink()
            yield measurer
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _write(task: Task, path: Path) -> None:
    try:
        torch.save(task, path, pickle_module=cloudpickle)
    except Exception as cause:  # pickling runs the __reduce__ of anything in the user's task
        raise WorkerError(
            f"The task cannot be sent to another process ({type(cause).__name__}: {cause}). Make what it holds "
            "picklable, and see that the disk has room for a copy of the data."
        ) from cause


# -- words ---------------------------------------------------------------------------------------------------


def _words(probe: BatchProbe) -> list[str]:
    fastest = probe.fastest
    where = "the main memory" if probe.device == "cpu" else f"the memory of {probe.device}"
    if probe.largest == probe.examples:
        fits = f"All {probe.examples:,} examples fit in one batch"
    else:
        how = (
            "tried; a tenth more does not fit" if probe.verified else "foretold, not tried: a step would take too long"
        )
        fits = f"The largest batch that fits is {probe.largest:,} ({how})"
    per_example = f" and {size(probe.bytes_per_example)} for each example" if probe.bytes_per_example > 0 else ""
    lines = [
        f"{fits}, within {size(probe.limit_bytes)} of {where}: {size(max(probe.fixed_bytes, 0))}{per_example}.",
        f"From batch size {fastest.batch_size:,} on, training is about as fast as it gets: "
        f"{figure(fastest.examples_per_second)} examples per second with {probe.threads} "
        f"thread{'s' if probe.threads > 1 else ''}. A larger one has fewer updates in an epoch and gains no time. "
        "Tune lr again for another batch size.",
    ]
    if probe.examples is not None and probe.largest < probe.examples:
        larger = [(n * probe.largest, n) for n in (2, 4) if n * probe.largest <= probe.examples]
        parts = [f"{batch:,} with accumulate={n}" for batch, n in larger or [(probe.examples, 2)]]
        lines.append(f"Larger batches train in parts: {listed(parts)}.")
    if probe.examples is not None:
        n = probe.examples
        shown = {1: n, fastest.batch_size: updates_per_epoch(n, fastest.batch_size), n: 1}
        counts = [f"{updates:,} at batch size {batch:,}" for batch, updates in sorted(shown.items())]
        lines.append(f"Updates per epoch of {n:,} examples: {listed(counts)}.")
    return lines
