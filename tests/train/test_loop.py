"""One trial: exact pause and continue, batches, faults. Equality with hand-written loops in plain torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rheostat.errors import DataError, RheostatError, TaskError
from rheostat.train import checkpoint
from rheostat.train.batches import LoaderBatches, TensorBatches
from rheostat.train.loop import TaskRunner, Training, check
from rheostat.train.task import Task, evaluate
from rheostat.types import Config, Job, Outcome, Report, Status


def blobs(n: int = 150, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=generator)
    return torch.randn(n, 5, generator=generator) + y[:, None], y


def network(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, config.get("units", 8)),
        nn.BatchNorm1d(config.get("units", 8)),
        nn.ReLU(),
        nn.Dropout(config.get("dropout", 0.2)),
        nn.Linear(config.get("units", 8), 3),
    )


def task(**changes: Any) -> Task:
    return Task(**{"model": network, "train": blobs(), "validation": blobs(60, 1), "device": "cpu", **changes})


def job(until: int, max_epochs: int = 10, **config: Any) -> Job:
    return Job(7, Config({"lr": 0.01, "batch_size": 32, **config}), seed=3, until_epoch=until, max_epochs=max_epochs)


def run(runner: TaskRunner, *jobs: Job) -> tuple[list[Report], Outcome]:
    reports: list[Report] = []
    for each in jobs:
        (outcome,) = runner.run([each], reports.append)
    return reports, outcome


def measured(reports: Sequence[Report]) -> dict[Any, Any]:
    """What must be equal: all but the time it took. Repeated reports must agree with the first."""
    result: dict[Any, Any] = {}
    for report in reports:
        metrics = {n: v for n, v in report.metrics.items() if n != "examples_per_second"}
        key = (report.epoch, report.step, report.epoch_end)
        assert repr(result.setdefault(key, metrics)) == repr(metrics)
    return result


# -- pause and continue --------------------------------------------------------------------------------------

CONFIGS = [
    {"optimizer": "adam", "dropout": 0.3},
    {"optimizer": "nesterov", "momentum": 0.9, "schedule": "cosine", "warmup": 0.1, "clip_norm": 1.0},
    {"optimizer": "lion", "schedule": "exponential", "ema": 0.9, "accumulate": 2},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "plateau", "patience": 4, "label_smoothing": 0.1},
    {"optimizer": "rmsprop", "schedule": "one_cycle", "batch_size": "full"},
    {"optimizer": "adagrad_tf1", "schedule": "wsd", "batch_size": 3},
]

CONTINUE = """
import json, sys
from pathlib import Path
from tests.train.test_loop import CONFIGS, job, task
from rheostat.train.loop import TaskRunner
for number, config in enumerate(CONFIGS):
    reports = []
    TaskRunner(task(), Path(sys.argv[1]) / str(number)).run([job(int(sys.argv[2]), **config)], reports.append)
    print(json.dumps([[r.epoch, r.step, r.epoch_end, r.metrics] for r in reports]))
"""


@pytest.mark.slow
def test_ten_epochs_are_three_and_three_and_four_in_three_processes(tmp_path: Path) -> None:
    pieces: list[list[Report]] = [[] for _ in CONFIGS]
    for until in (3, 6, 10):
        command = [sys.executable, "-c", CONTINUE, str(tmp_path / "pieces"), str(until)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for number, line in enumerate(output.splitlines()):
            pieces[number] += [Report(7, e, s, m, 0.0, end) for e, s, end, m in json.loads(line)]
    for number, config in enumerate(CONFIGS):
        whole, outcome = run(TaskRunner(task(), tmp_path / "whole" / str(number)), job(10, **config))
        assert repr(measured(pieces[number])) == repr(measured(whole))
        assert_same_files(tmp_path / "pieces" / str(number), tmp_path / "whole" / str(number))
        assert outcome.status in (Status.DONE, Status.CONVERGED)


def assert_same_files(left: Path, right: Path) -> None:
    """Weights and state bit for bit."""
    ours, theirs = (checkpoint.latest(checkpoint.trial_folder(root, 7)) for root in (left, right))
    assert ours is not None and theirs is not None
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    for part in ("optimizer", "hooks", "random", "plateau", "epoch", "step", "stop_reason", "best"):
        assert same(ours[1][part], theirs[1][part]), part
    best = [checkpoint.load_best(checkpoint.trial_folder(root, 7)) for root in (left, right)]
    assert best[0][0] == best[1][0] and same(best[0][1], best[1][1])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c["optimizer"])
def test_pausing_changes_nothing_in_memory_or_from_disk(tmp_path: Path, config: dict[str, Any]) -> None:
    whole, _ = run(TaskRunner(task(), tmp_path / "whole"), job(6, 6, **config))
    live, _ = run(TaskRunner(task(), tmp_path / "live"), job(1, 6, **config), job(4, 6, **config), job(6, 6, **config))
    disk: list[Report] = []
    for until in (1, 4, 6):
        disk += run(TaskRunner(task(), tmp_path / "disk"), job(until, 6, **config))[0]
    assert repr(measured(live)) == repr(measured(whole))
    assert repr(measured(disk)) == repr(measured(whole))
    assert_same_files(tmp_path / "live", tmp_path / "whole")
    assert_same_files(tmp_path / "disk", tmp_path / "whole")


def test_a_trial_does_not_depend_on_its_neighbours_or_on_global_random_numbers(tmp_path: Path) -> None:
    alone, _ = run(TaskRunner(task(), tmp_path / "alone"), job(3))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    runner = TaskRunner(task(), tmp_path / "among")
    mixed: list[Report] = []
    other = Job(8, Config(lr=0.1), 9, 3, 10)
    for until in (1, 2, 3):
        mixed += run(runner, job(until))[0]
        runner.run([other], lambda report: None)
    assert repr(measured(mixed)) == repr(measured(alone))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_damaged_checkpoint_costs_time_and_nothing_else(tmp_path: Path) -> None:
    whole, _ = run(TaskRunner(task(), tmp_path), job(4))
    (state,) = tmp_path.glob("00007/epoch-*/state.pt")
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    again, _ = run(TaskRunner(task(), tmp_path), job(4))
    assert repr(measured(again)) == repr(measured(whole))


def test_the_checkpoint_of_another_trial_is_not_used(tmp_path: Path) -> None:
    run(TaskRunner(task(), tmp_path), job(2, lr=0.5))
    fresh, _ = run(TaskRunner(task(), tmp_path / "fresh"), job(2))
    stale, _ = run(TaskRunner(task(), tmp_path), job(2))
    assert repr(measured(stale)) == repr(measured(fresh))


# -- equality with plain torch -------------------------------------------------------------------------------


def test_a_trial_is_what_a_hand_written_loop_computes(tmp_path: Path) -> None:
    reports, _ = run(TaskRunner(task(), tmp_path), job(3, optimizer="adam", dropout=0.0))
    (x, y), (x_val, y_val) = blobs(), blobs(60, 1)
    torch.manual_seed(3)
    model = network(Config(dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    batches = TensorBatches((x, y), 32, seed=3)
    for epoch in range(3):
        total = 0.0
        model.train()
        for xb, yb in batches.epoch(epoch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(xb)
        model.eval()
        with torch.no_grad():
            output = model(x_val)
        metrics = [r for r in reports if r.epoch_end][epoch].metrics
        assert metrics["train_loss"] == pytest.approx(total / 150, rel=1e-5)
        assert metrics["val_loss"] == pytest.approx(F.cross_entropy(output, y_val).item(), rel=1e-5)
        assert metrics["val_error"] == pytest.approx((output.argmax(1) != y_val).float().mean().item(), abs=1e-7)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    def linear(config: Config) -> nn.Module:
        return nn.Linear(5, 3).double()

    x, y = blobs()
    data = {"model": linear, "train": (x.double(), y), "validation": (x.double(), y)}
    whole, _ = run(TaskRunner(task(**data), tmp_path / "1"), job(2, batch_size=50, optimizer="sgd"))
    parts, _ = run(TaskRunner(task(**data), tmp_path / "3"), job(2, batch_size=50, optimizer="sgd", accumulate=7))
    for left, right in zip(whole, parts, strict=True):
        assert left.metrics["train_loss"] == pytest.approx(right.metrics["train_loss"], rel=1e-12)
    assert whole[-1].metrics["val_loss"] == pytest.approx(parts[-1].metrics["val_loss"], rel=1e-12)


def test_evaluation_in_chunks_is_evaluation_at_once() -> None:
    whole, data = task(), blobs(100, 2)
    torch.manual_seed(0)
    model = network(Config())
    device = torch.device("cpu")
    at_once = evaluate(whole, model, data, device)
    in_chunks = evaluate(whole, model, data, device, chunk=7)
    loader = evaluate(whole, model, DataLoader(TensorDataset(*data), batch_size=9), device)
    assert at_once == pytest.approx(in_chunks, rel=1e-6) and at_once == pytest.approx(loader, rel=1e-6)
    assert model.training  # the mode is put back


# -- batches -------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 80), size=st.integers(1, 80), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_every_example_comes_once_in_an_epoch(n: int, size: int, seed: int, epoch: int) -> None:
    size = min(n, size)
    batches = TensorBatches((torch.arange(n), torch.arange(n) * 2), size, seed)
    seen = list(batches.epoch(epoch))
    rest = n % size
    assert len(seen) == batches.steps_per_epoch == n // size + (rest > 1)
    assert all(len(x) == size for x, _ in seen[:-1])
    assert len(seen[-1][0]) == (size + 1 if rest == 1 else rest or size)
    assert torch.cat([x for x, _ in seen]).sort().values.tolist() == list(range(n))
    assert all(torch.equal(2 * x, y) for x, y in seen)


def test_batchnorm_never_meets_a_single_example(tmp_path: Path) -> None:
    whole = task(train=blobs(97))
    _, outcome = run(TaskRunner(whole, tmp_path), job(2, batch_size=32))
    assert outcome.status is Status.PAUSED
    assert [len(y) for _, y in TensorBatches(blobs(97), 32, 0).epoch(0)] == [32, 32, 33]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, size: int = 8) -> list[int]:
        torch.rand(5)  # others may draw
        batches = TensorBatches((torch.arange(100), torch.arange(100)), size, seed)
        return torch.cat([x for x, _ in batches.epoch(epoch)]).tolist()

    assert order(1, 0) == order(1, 0) == order(1, 0, size=32)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


def test_updates_per_epoch_of_the_articles_example() -> None:
    """1000 records: 1000 updates one by one, 1 for the whole, and the last batch holds what is left."""
    data = (torch.arange(1000), torch.arange(1000))
    sizes = {size: TensorBatches(data, size, 0).steps_per_epoch for size in (1, 32, 64, 128, 256, "full", 1000)}
    assert sizes == {1: 1000, 32: 32, 64: 16, 128: 8, 256: 4, "full": 1, 1000: 1}
    assert TensorBatches(data, 256, 0, last="drop").steps_per_epoch == 3


def test_large_rows_are_gathered_in_several_pieces() -> None:
    data = (torch.arange(64.0)[:, None].expand(64, 100_000).contiguous(), torch.arange(64))
    batches = TensorBatches(data, 4, 0)
    for x, y in batches.epoch(0):
        assert torch.equal(x[:, 0].long(), y) and x.shape == (4, 100_000)


def test_a_dataloader_is_shuffled_by_the_trial_and_continues_exactly(tmp_path: Path) -> None:
    def loader(config: Config) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs()), batch_size=config.batch_size, shuffle=True)

    def runner(name: str) -> TaskRunner:
        return TaskRunner(task(train=loader), tmp_path / name)

    whole, _ = run(runner("whole"), job(4))
    parts: list[Report] = []
    for until in (1, 3, 4):
        torch.rand(until)
        parts += run(runner("parts"), job(until))[0]
    assert repr(measured(parts)) == repr(measured(whole))
    own = DataLoader(TensorDataset(*blobs()), batch_size=50, shuffle=True, generator=torch.Generator())
    first, second = (torch.cat([y for _, y in LoaderBatches(own, 5).epoch(2)]) for _ in range(2))
    assert torch.equal(first, second)


# -- faults --------------------------------------------------------------------------------------------------


def test_nan_is_a_result_with_the_last_finite_loss_and_the_first(tmp_path: Path) -> None:
    reports, outcome = run(TaskRunner(task(), tmp_path), job(5, lr=1e30, optimizer="sgd"))
    assert outcome.status is Status.INFEASIBLE and outcome.epoch == 0
    assert "at step 2, after 1." in outcome.reason
    initial, second = reports
    assert (initial.epoch, initial.step, second.step) == (0, 0, 1)
    assert initial.metrics["train_loss"] == pytest.approx(math.log(3), abs=0.7)


class Exploding(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.linear, self.error = nn.Linear(5, 3), error

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()) < 0.3:
            raise self.error
        result: Tensor = self.linear(x)
        return result


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), Status.INFEASIBLE, "out of memory at step"),
        (torch.OutOfMemoryError("CUDA out of memory."), Status.INFEASIBLE, "out of memory at step"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            Status.INFEASIBLE,
            "out of memory",
        ),
        (ValueError("shapes"), Status.FAILED, "ValueError: shapes"),
    ],
)
def test_faults_of_the_model_end_the_trial_alone(tmp_path: Path, error: Exception, status: Status, words: str) -> None:
    runner = TaskRunner(task(model=lambda config: Exploding(error)), tmp_path)
    _, outcome = run(runner, job(50, 50))
    assert outcome.status is status and words in outcome.reason
    assert (status is Status.FAILED) == ("Traceback" in outcome.detail)


def test_real_out_of_memory_is_a_result(tmp_path: Path) -> None:
    def huge(config: Config) -> nn.Module:
        return nn.Linear(5, 2**45)

    _, outcome = run(TaskRunner(task(model=huge), tmp_path), job(1))
    assert outcome.status is Status.INFEASIBLE and "out of memory" in outcome.reason


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        ({"leraning_rate": 0.1}, {}, "Unknown hyperparameter 'leraning_rate'"),
        ({"lr": -0.1}, {}, "lr"),
        ({"optimizer": "adm"}, {}, "Did you mean 'adam'"),
        ({"schedule": "cosin"}, {}, "Did you mean 'cosine'"),
        ({"batch_size": 1000}, {}, "more than the 150 training examples"),
        ({"batch_size": 0}, {}, "from 1 to 150"),
        ({"label_smoothing": 1.5}, {}, "less than 1"),
        ({"accumulate": 0}, {}, "whole number from 1"),
        ({"clip_norm": -1.0}, {}, "positive"),
        ({"ema": 2.0}, {}, "less than 1"),
        ({}, {"model": lambda config: "a net"}, "must return a torch.nn.Module"),
        ({}, {"model": lambda config: nn.Linear(4, 3)}, "cannot be applied to the validation data"),
        ({}, {"model": lambda config: nn.Linear(5, 2)}, "cannot be applied to the validation data"),
        ({}, {"device": "nvidia"}, "cannot be used here"),
    ],
)
def test_what_cannot_train_is_told_before_training(config: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RheostatError, match=words):
        check(task(**changes), Config({"lr": 0.01, **config}))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"loss": "cros_entropy"}, TaskError, "Did you mean 'cross_entropy'"),
        ({"metrics": ["eror"]}, TaskError, "Did you mean 'error'"),
        ({"metric": "val_f1"}, TaskError, "Known: val_loss"),
        ({"direction": "down"}, TaskError, "minimize"),
        ({"train": (torch.zeros(3, 5),)}, DataError, "inputs, targets"),
        ({"train": (torch.zeros(3, 5), torch.zeros(4))}, DataError, r"lengths \[3, 4\]"),
        ({"train": (torch.zeros(0, 5), torch.zeros(0))}, DataError, "not zero"),
        ({"validation": (torch.tensor([[1.0], [math.nan]]), torch.zeros(2))}, DataError, "first in row 1"),
        ({"validate_every_steps": 0}, TaskError, "from 1"),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_words(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        task(**changes)


def test_early_stopping_converges_and_validation_within_an_epoch_is_reported(tmp_path: Path) -> None:
    whole = task(validate_every_steps=2)
    reports, outcome = run(TaskRunner(whole, tmp_path), job(50, 50, lr=1e-12, patience=3, optimizer="sgd"))
    assert outcome.status is Status.CONVERGED and outcome.epoch < 50
    within = [r for r in reports if not r.epoch_end and "val_error" in r.metrics]
    assert {r.step for r in within if r.epoch == 0} == {2, 4}


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    whole = task()
    reports, _ = run(TaskRunner(whole, tmp_path), job(8, lr=0.3, optimizer="adam"))
    values = [r.metrics["val_error"] for r in reports if r.epoch_end]
    epoch, weights = checkpoint.load_best(checkpoint.trial_folder(tmp_path, 7))
    assert epoch == values.index(min(values)) + 1
    model = network(Config())
    model.load_state_dict(weights)
    assert evaluate(whole, model, whole.validation, torch.device("cpu"))["error"] == pytest.approx(min(values))


def test_its_own_number_of_epochs_may_be_a_hyperparameter(tmp_path: Path) -> None:
    _, outcome = run(TaskRunner(task(), tmp_path), job(10, epochs=4))
    assert (outcome.status, outcome.epoch) == (Status.DONE, 4)
    assert Training(task(), job(10, epochs=4)).max_epochs == 4
