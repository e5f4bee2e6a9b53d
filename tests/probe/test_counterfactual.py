"""The arms of a trial, compared with plain training at the rates that they promise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rheostat.diagnose.base import Observations
from rheostat.models.mlp import MLP
from rheostat.probe.counterfactual import ARMS, FORKS, MOST, arms, effects, jobs, length
from rheostat.train import checkpoint
from rheostat.train.lane_runner import LaneRunner
from rheostat.train.loop import TaskRunner, Training
from rheostat.train.optimizers import OPTIMIZERS
from rheostat.train.rates import SCHEDULES, from_config
from rheostat.train.task import Task
from rheostat.types import Config, Job, Report, Status

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + 0.3 * X[:, 1] > 0).long()
TASK = Task(
    lambda c: MLP(6, 2, c.get("layers", 1), c.get("units", 8), dropout=c.get("dropout", 0.0)),
    (X, Y),
    (X[:40], Y[:40]),
    device="cpu",
)


# -- configurations ------------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(set(SCHEDULES) - {"piecewise", "plateau"})),
    st.floats(1e-4, 1.0),
    st.integers(1, 30),
    st.integers(2, 5),
    st.integers(1, 7),
    st.floats(0.05, 1.0),
)
def test_forks_train_at_the_rate_where_the_trial_stands(
    schedule: str, lr: float, epoch: int, epochs: int, steps: int, share: float
) -> None:
    found = arms(Config(lr=lr, schedule=schedule, warmup=0.3), epoch, epochs, lr=share * lr)
    own = range(epoch * steps, (epoch + epochs) * steps)
    for name, factor in (("same", 1.0), ("lr_up", 3.0), ("lr_down", 1 / 3)):
        rate, plateau = from_config(found[name], steps, (epoch + epochs) * steps)
        assert plateau is None
        assert [rate(step) for step in own] == pytest.approx([factor * share * lr] * len(own), rel=1e-5)
    rate, _ = from_config(found["cooldown"], steps, (epoch + epochs) * steps)
    line = share * lr * (1 - np.arange(len(own)) / len(own))
    assert [rate(step) for step in own] == pytest.approx(line.tolist())


def test_where_a_schedule_has_ended_there_is_still_a_rate_to_vary() -> None:
    found = arms(Config(lr=0.3, schedule="linear"), 20, 2, lr=1e-9)
    assert found["same"].lr == pytest.approx(0.01) and found["lr_up"].lr == pytest.approx(0.03)


def test_without_a_rate_the_optimisers_own_is_taken() -> None:
    assert arms(Config(optimizer="sgd"), 3, 2)["lr_up"].lr == pytest.approx(3 * OPTIMIZERS["sgd"].defaults["lr"])


def test_nothing_ends_a_fork_early() -> None:
    same = arms(Config(lr=0.1, patience=2, epochs=5), 5, 3)["same"]
    assert (same.epochs, same.patience > 1000) == (8, True)


def test_what_is_at_work_is_switched_off() -> None:
    none = Config(lr=0.1, dropout=0.0, weight_decay=None, label_smoothing=0)
    assert "no_regularisation" not in arms(none, 5, 2)
    strong = arms(Config(lr=0.1, dropout=0.2, weight_decay=1e-4, label_smoothing=0.0), 5, 2)
    off, same = strong["no_regularisation"], strong["same"]
    assert (off.dropout, off.weight_decay, off.label_smoothing) == (0.0, 0.0, 0.0)
    assert {n for n in off if off[n] != same[n]} == {"dropout", "weight_decay"}
    assert arms(Config(optimizer="adamw"), 5, 2)["no_regularisation"].weight_decay == 0.0  # its default is not 0


def test_widths_are_doubled_where_they_have_a_known_name() -> None:
    assert "larger" not in arms(Config(lr=0.1, size=8), 5, 2)
    larger = arms(Config(lr=0.1, units=8, hidden=16, layers=2), 5, 2)["larger"]
    assert (larger.units, larger.hidden, larger.layers) == (16, 32, 2)


@given(st.integers(1, 10_000))
def test_an_arm_takes_a_tenth_of_the_epochs(max_epochs: int) -> None:
    assert length(max_epochs) == 2 or 0.05 <= length(max_epochs) / max_epochs <= 0.11


# -- training ------------------------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, Tensor]:
    stored = checkpoint.latest(folder)
    assert stored is not None
    return stored[0]


def train(root: Path, ready: dict[str, Job], lanes: bool = False) -> dict[int, list[Report]]:
    """The reports of every job, trained to its end from its parent's checkpoint."""
    told: dict[int, list[Report]] = {job.trial: [] for job in ready.values()}
    runner = LaneRunner(TASK, root, 16) if lanes else TaskRunner(TASK, root)
    left = list(ready.values())
    for job in left:
        if job.parent is not None:
            checkpoint.inherit(root, job.parent, job.born, job.trial)
    while left:
        for event in runner.run(left, lambda report: told[report.trial].append(report)):
            assert getattr(event, "status", Status.DONE) in (Status.DONE, Status.PAUSED), event
            left = [job for job in left if job.trial != event.trial]
    return told


CONFIG = Config(lr=0.05, batch_size=16, units=8, dropout=0.1, optimizer="adam", schedule="cosine", patience=8)


@pytest.fixture
def trained(tmp_path: Path) -> Job:
    """Four of eight epochs of a trial."""
    job = Job(0, CONFIG, seed=3, until_epoch=4, max_epochs=8)
    train(tmp_path, {"parent": job})
    return job


def test_same_is_the_trial_trained_on_at_its_rate_bit_for_bit(tmp_path: Path) -> None:
    """Without random numbers in the network: where there are some, a copy draws its own."""
    config = Config(lr=0.05, batch_size=16, optimizer="momentum")
    parent = Job(0, config, seed=3, until_epoch=4, max_epochs=8)
    train(tmp_path, {"parent": parent})
    told = train(tmp_path, jobs(parent, {"same": arms(config, 4, 2)["same"]}, 4, 2, first=1))
    plain = Training(TASK, Job(0, config, seed=3, until_epoch=6, max_epochs=8))
    reports = [plain.train_epoch()[-1] for _ in range(6)][4:]
    assert [r.epoch for r in told[1]] == [5, 6]
    for fork, straight in zip(told[1], reports, strict=True):
        for name in ("train_loss", "val_loss", "lr", "grad_norm"):
            assert fork.metrics[name] == straight.metrics[name]
    for name, tensor in state(checkpoint.trial_folder(tmp_path, 1)).items():
        assert torch.equal(tensor, plain.model.state_dict()[name])


def test_every_arm_is_trained_and_lanes_agree_with_the_plain_loop(trained: Job, tmp_path: Path) -> None:
    found = arms(trained.config, 4, 2, lr=0.03)
    assert set(found) == set(ARMS)
    plain = train(tmp_path, jobs(trained, found, 4, 2, first=1))
    together = train(tmp_path, jobs(trained, found, 4, 2, first=11), lanes=True)
    for number, name in enumerate(found, 1):
        epochs = [r.epoch for r in plain[number] if r.epoch_end]
        assert epochs == ([5, 6] if name in FORKS else [1, 2]), name
        for one, other in zip(plain[number], together[number + 10], strict=True):
            assert one.metrics["train_loss"] == pytest.approx(other.metrics["train_loss"], rel=1e-3)
    first = {name: plain[number][0].metrics for number, name in enumerate(found, 1)}
    assert first["cooldown"]["lr"] < first["same"]["lr"] == pytest.approx(0.03)


def test_those_that_begin_anew_have_the_schedule_of_the_trial(trained: Job) -> None:
    ready = jobs(trained, arms(trained.config, 4, 2), 4, 2, first=1)
    other, larger = (Training(TASK, ready[name]) for name in ("other_seed", "larger"))
    own = Training(TASK, trained)
    assert [other.rate(step) for step in range(16)] == [own.rate(step) for step in range(16)]
    assert larger.model.output.in_features == 2 * own.model.output.in_features  # type: ignore[union-attr,operator]
    assert not torch.equal(next(other.model.parameters()), next(own.model.parameters()))


def test_a_trial_that_has_not_trained_is_begun_in_other_ways(tmp_path: Path) -> None:
    config = Config(lr=0.05, batch_size=16)
    told = train(tmp_path, jobs(Job(0, config, 3, 0, 8), arms(config, 0, 2), 0, 2, first=1))
    assert all([r.epoch for r in reports if r.epoch_end] == [1, 2] for reports in told.values())
    assert told[1][0].metrics == told[2][0].metrics  # the same untrained network


# -- what they say -------------------------------------------------------------------------------------------


def run(*losses: float, train: float = 1.0) -> Observations:
    values = np.array(losses, dtype=np.float64)
    return Observations({"val_loss": values, "train_loss": np.where(np.isnan(values), np.nan, train)})


NAN = math.nan


def test_effects_are_logarithms_of_ratios_to_what_they_are_compared_with() -> None:
    parent = run(4.0, 3.0, 2.0)
    found = effects(
        parent,
        {
            "same": run(NAN, NAN, NAN, 1.0, 1.5),
            "lr_up": run(NAN, NAN, NAN, 0.5, 3.0, train=2.0),
            "lr_down": run(NAN, NAN, NAN, 2.0, 1.5),
            "larger": run(3.0, 1.5),
        },
    )
    assert found["probe_same"] == pytest.approx(math.log(1 / 2))
    assert found["probe_same_last"] == pytest.approx(math.log(1.5 / 2))
    assert found["probe_lr_up"] == pytest.approx(math.log(0.5))
    assert found["probe_lr_up_last"] == pytest.approx(math.log(2))
    assert found["probe_lr_up_train"] == pytest.approx(math.log(2))
    assert found["probe_lr_down"] == pytest.approx(math.log(1.5))
    assert found["probe_larger"] == pytest.approx(math.log(1.5 / 3))  # with the trial after two epochs
    assert all(math.isnan(found[f"probe_{name}"]) for name in ("cooldown", "no_regularisation", "other_seed"))


def test_an_arm_that_diverged_is_as_bad_as_can_be() -> None:
    same, empty = run(NAN, 1.0, 1.0), Observations({})
    found = effects(run(1.0), {"same": same, "lr_up": empty, "cooldown": run(NAN, 0.5, math.inf)})
    assert found["probe_lr_up"] == found["probe_lr_up_last"] == found["probe_cooldown_last"] == MOST
    assert found["probe_cooldown"] == pytest.approx(math.log(0.5))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(ARMS), st.lists(st.floats(allow_nan=True), max_size=4)))
def test_effects_are_within_bounds_whatever_was_measured(losses: dict[str, list[float]]) -> None:
    found = effects(run(2.0, 1.0), {name: run(*values) for name, values in losses.items()})
    assert len(found) == 3 * len(ARMS)
    assert all(math.isnan(value) or abs(value) <= MOST for value in found.values())
