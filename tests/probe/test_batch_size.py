from __future__ import annotations

import json
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rheostat.data.base import TokenStream
from rheostat.errors import SettingError, TaskError, WorkerError
from rheostat.probe import batch_size
from rheostat.probe.batch_size import BatchProbe, Cost, batch_probe, updates_per_epoch
from rheostat.probe.measure import Answer
from rheostat.train.batches import TensorBatches
from rheostat.train.task import Task
from rheostat.types import Config
from tests.probe import limits

MB = 10**6


def small(model: Any = limits.mlp, examples: int = 40, **settings: Any) -> Task:
    x = torch.randn(examples, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(examples) % 10
    return Task(model, (x, y), (x[:8], y[:8]), device="cpu", **settings)


@pytest.fixture(scope="module")
def measurer() -> Iterator[batch_size._Measurer]:
    with batch_size._measuring(small(moody), {}, 0, 1) as measurer:
        yield measurer


@pytest.fixture(scope="module")
def probed(measurer: batch_size._Measurer) -> BatchProbe:
    """Of a network that takes 50 MB for each example, 280 MB of which the limit leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size, "_measuring", lambda *_: nullcontext(measurer))
        return batch_probe(small(moody), {}, sizes=[1, 2, 4, 8], memory_limit_bytes=measurer.alone_bytes + 280 * MB)


def test_the_largest_batch_is_foretold_and_tried(probed: BatchProbe) -> None:
    assert [(cost.batch_size, cost.updates_per_epoch) for cost in probed.costs] == [(1, 40), (2, 20), (4, 10)]
    assert all(cost.examples_per_second > 0 and cost.step_seconds > 0 for cost in probed.costs)
    assert probed.foretold == probed.largest == 5 and probed.verified
    assert probed.bytes_per_example == pytest.approx(50 * MB, rel=0.02)
    assert probed.memory_bytes(4) == pytest.approx(probed.costs[-1].memory_bytes)
    assert [probed.accumulate(size) for size in (1, 5, 6, 40)] == [1, 1, 2, 8]


def test_its_words_and_numbers(probed: BatchProbe) -> None:
    assert "The largest batch that fits is 5 (tried; a tenth more does not fit)" in probed.words
    assert "10 with accumulate=2 and 20 with accumulate=4" in probed.words
    assert "40 at batch size 1" in probed.words and "1 at batch size 40" in probed.words
    assert len(probed.table.rows) == 3 and all(len(row) == 5 for row in probed.table.rows)
    described = json.loads(json.dumps(probed.describe()))
    assert described["largest"] == 5 and described["costs"][0]["batch_size"] == 1


def test_a_process_that_dies_does_not_fit_and_others_are_measured_after_it(measurer: batch_size._Measurer) -> None:
    killed = measurer.ask(KILLED, 10**12, 0.0)
    assert killed.out_of_memory and killed.error == "the process ended (signal 9)"
    assert measurer.ask(2, 10**12, 0.0).error == ""


def test_an_exception_comes_with_its_traceback(measurer: batch_size._Measurer) -> None:
    answer = measurer.ask(UNLUCKY, 10**12, 0.0)
    assert answer.error == "ValueError: no such luck" and not answer.out_of_memory
    assert "in forward" in answer.detail
    with pytest.raises(TaskError, match="A batch of 6 cannot be trained: ValueError: no such luck"):
        batch_size._cost(UNLUCKY, answer)


def test_a_single_example_that_is_left_over_is_no_batch(measurer: batch_size._Measurer) -> None:
    answer = measurer.ask(13, 10**12, 0.0)  # 40 = 3 * 13 + 1
    assert (answer.error, answer.updates_per_epoch, answer.examples) == ("", 3, 14)


def test_memory_that_is_given_back_counts_too(measurer: batch_size._Measurer) -> None:
    few, many = (measurer.ask(size, 10**12, 0.0).peak_bytes for size in (1, 4))
    assert many - few == pytest.approx(150 * MB, rel=0.02)


def test_no_process_is_left_and_the_random_state_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    before = psutil.Process().children(recursive=True)
    with (
        pytest.raises(WorkerError, match="cannot be loaded in another process: OSError: not here"),
        batch_size._measuring(small(NotHere()), {}, 0, 1),
    ):
        pass
    assert set(psutil.Process().children(recursive=True)) <= set(before)
    assert list(tmp_path.iterdir()) == []
    assert random.getstate() == state[0] and np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


# -- what is made of the measurements ------------------------------------------------------------------------


class Line:
    """Stands in for the process that measures: memory is 100 MB and 1 MB for each example."""

    alone_bytes = 90 * MB

    def __init__(self, answers: Mapping[int, Answer], step_seconds: float = 1e-3) -> None:
        self.answers, self.step_seconds = answers, step_seconds
        self.asked: list[int] = []

    def ask(self, size: int, limit_bytes: int, seconds: float) -> Answer:
        self.asked.append(size)
        if size in self.answers:
            return self.answers[size]
        peak = (100 + size) * MB
        if peak > limit_bytes:
            return Answer(error="RuntimeError: out of memory", out_of_memory=True)
        return Answer(size, -(-40 // size), self.step_seconds * size, 1 / self.step_seconds, peak)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Line]:
    def use(answers: Mapping[int, Answer] | None = None, step_seconds: float = 1e-3) -> Line:
        line = Line(answers or {}, step_seconds)
        monkeypatch.setattr(batch_size, "_measuring", lambda *_: nullcontext(line))
        return line

    return use


def test_every_size_is_tried_and_all_examples_fit(line: Callable[..., Line]) -> None:
    asked = line().asked
    found = batch_probe(small(), {})
    assert asked == [cost.batch_size for cost in found.costs] == [1, 2, 4, 8, 16, 32, 40]
    assert found.largest == found.examples == 40 and found.verified
    assert "All 40 examples fit in one batch" in found.words
    assert found.limit_bytes < 0.91 * psutil.virtual_memory().total


def test_the_line_says_what_fits(line: Callable[..., Line]) -> None:
    line()
    found = batch_probe(small(), {}, sizes=[1, 2, 4], memory_limit_bytes=123 * MB)
    assert (found.fixed_bytes, found.bytes_per_example) == (100 * MB, 1 * MB)
    assert found.foretold == found.largest == 23


def test_a_step_that_would_take_too_long_is_not_tried(line: Callable[..., Line]) -> None:
    asked = line(step_seconds=4.0).asked
    found = batch_probe(small(), {}, memory_limit_bytes=130 * MB)
    assert found.largest == found.foretold == 30 and not found.verified
    assert asked == [1, 2, 4] and "foretold, not tried" in found.words


def test_a_batch_of_one_may_be_impossible(line: Callable[..., Line]) -> None:
    line({1: Answer(error="ValueError: Expected more than 1 value per channel when training")})
    assert [cost.batch_size for cost in batch_probe(small(), {}, sizes=[1, 2, 4]).costs] == [2, 4]


def test_not_even_one_example_fits(line: Callable[..., Line]) -> None:
    line()
    with pytest.raises(TaskError, match="Not even a batch of 1 fits in 95 MB"):
        batch_probe(small(), {}, memory_limit_bytes=95 * MB)
    with pytest.raises(TaskError, match="90 MB are taken by Python, torch and the data alone"):
        batch_probe(small(), {}, memory_limit_bytes=10 * MB)


def test_a_loader_must_read_the_batch_size(line: Callable[..., Line]) -> None:
    line({32: Answer(4, 10, 1e-3, 4000.0, 100 * MB)})
    with pytest.raises(TaskError, match="gave a batch of 4, not 32: let task.train be a function"):
        batch_probe(small(), {}, sizes=[32])


def test_a_text_has_as_many_rows_as_it_has(line: Callable[..., Line]) -> None:
    line({size: Answer(error="TaskError: give a whole number from 1 to 5") for size in (6, 7, 8)})
    stream = TokenStream(torch.arange(400) % 7, length=64)
    task = Task(moody, stream, stream, loss="tokens", metrics=(), device="cpu")
    found = batch_probe(task, {})
    assert [cost.batch_size for cost in found.costs] == [1, 2, 4]
    assert found.examples is None and found.largest == 5


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(SettingError, match=r"sizes=\[0\]: give whole numbers from 1 to 40"):
        batch_probe(small(), {}, sizes=[0])
    with pytest.raises(SettingError, match="memory_limit_bytes=0"):
        batch_probe(small(), {}, memory_limit_bytes=0)
    with pytest.raises(WorkerError, match="cannot be sent to another process"):
        batch_probe(small(Unpicklable()), {})


@given(st.integers(2, 3000), st.integers(1, 3000))
def test_updates_are_those_of_the_trainer(examples: int, size: int) -> None:
    size = min(size, examples)
    batches = TensorBatches((torch.zeros(examples),), size, seed=0)
    assert updates_per_epoch(examples, size) == batches.steps_per_epoch


@given(
    st.floats(1e8, 1e9),
    st.floats(1e3, 1e7),
    st.integers(0, 10),
    st.integers(1, 5000),
    st.floats(0.7, 1.4),
)
def test_the_search_ends_within_a_tenth_of_the_limit(
    fixed: float, slope: float, last: int, limit: int, off: float
) -> None:
    """Memory that is a straight line, and a first guess that is off: whatever is found, little more does not fit."""

    line = Line({size: Answer(error="out", out_of_memory=True) for size in range(limit + 1, 4001)})
    costs = [Cost(2**n, 1, 1e-6, 1.0, int(fixed + slope * 2**n)) for n in range(last + 1) if 2**n <= limit]
    most = 4000
    too_large = next((2**n for n in range(last + 2) if limit < 2**n), most + 1)
    found, verified = batch_size._searched(line, costs, 10**12, max(int(limit * off), 1), too_large)  # type: ignore[arg-type]
    assert verified and found <= limit
    assert min(limit, most) <= max(found * 1.1, found + 1)
    assert len(line.asked) <= 12


@pytest.mark.slow
@pytest.mark.parametrize("name", limits.MODELS)
def test_the_largest_batch_is_within_a_tenth_of_the_real_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real limit is that of a plain loop in a fresh process under the same cap (RLIMIT_DATA).

    The C library gives freed memory back at once here. Otherwise it keeps up to about 100 MB of tensors below 32 MB;
    how much differs from run to run of the same program, so that the real limit of a low cap is no number.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    limit, large = limits.LIMIT_BYTES, {"mlp": 8192, "cnn": 256, "gru": 1024}[name]
    found = batch_probe(limits.task(name), {}, sizes=[16, large], memory_limit_bytes=limit)
    assert found.verified and large < found.largest < limits.EXAMPLES[name]
    assert found.foretold == pytest.approx(found.largest, rel=0.2)  # before it was tried
    assert limits.fits(name, int(0.9 * found.largest), limit)
    assert not limits.fits(name, int(1.1 * found.largest), limit)


# -- at the top of the module, so that another process finds it ------------------------------------------------

KILLED, UNLUCKY = 7, 6


class Moody(nn.Module):
    """Takes 50 MB for each example, and does not like some batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(16, 10)
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        if len(x) == 1 < self.largest:
            raise ValueError("a batch of one after larger ones")
        if len(x) == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(x) == UNLUCKY:
            raise ValueError("no such luck")
        torch.empty(len(x), 50 * MB, dtype=torch.uint8)
        return self.output(x)


def moody(config: Config) -> nn.Module:
    return Moody()


class Unpicklable:
    def __call__(self, config: Config) -> nn.Module:
        return limits.mlp(config)

    def __reduce__(self) -> Any:
        raise OSError("not to be written down")


def fail() -> None:
    raise OSError("not here")


class NotHere(Unpicklable):
    def __reduce__(self) -> Any:
        return fail, ()
