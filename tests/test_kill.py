"""kill -9 of the main process and of workers, at random moments, in a study with real training."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import rheostat
from rheostat import Choice, Float, Int, Space, Task
from rheostat.records.store import Records

KILLS = 20
START_SECONDS = 3.0  # of a worker, which imports torch


def a_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (1600,), generator=generator)
    x = torch.randn(1600, 10, generator=generator) + 0.5 * y[:, None]

    def network(config: rheostat.Config) -> nn.Module:
        return nn.Sequential(nn.Linear(10, config.units), nn.ReLU(), nn.Dropout(0.2), nn.Linear(config.units, 3))

    return Task(network, (x[:1500], y[:1500]), (x[1500:], y[1500:]), name="killed", device="cpu")


def run(folder: Path, schedule: str, engine: str, workers: int, trials: int) -> rheostat.Study:
    # Lanes give the same bits in any company where their slices are aligned (docs/lanes.md).
    units = Choice([16, 32]) if engine == "lanes" else Int(4, 64, log=True)
    space = Space(lr=Float(1e-4, 1.0, log=True), units=units, batch_size=8)
    return rheostat.tune(
        a_task(),
        space,
        trials=trials,
        epochs=9,
        storage=folder / "studies.db",
        schedule=schedule,
        engine=engine,
        workers=workers,
        progress="none",
    )


def table(folder: Path) -> list[object]:
    with Records(f"sqlite:///{folder / 'studies.db'}") as records:
        study = records.study("killed")
        trials = [(t.number, t.config, t.status, t.reason) for t in records.trials(study)]
        reports = [
            (r.trial, r.epoch, r.step, {n: v for n, v in r.metrics.items() if n != "examples_per_second"})
            for r in records.reports(study)
        ]
        return [trials, repr(reports)]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "engine"), [("asha", "loop"), ("fifo", "loop"), ("asha", "lanes")])
def test_a_study_survives_kill_9_of_anything_at_any_moment(tmp_path: Path, schedule: str, engine: str) -> None:
    trials = 160 if schedule == "asha" else 100  # enough for all the kills
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    run(calm, schedule, engine, 1, trials)
    chance = random.Random(schedule)
    command = [sys.executable, __file__, str(killed), schedule, engine, str(trials)]
    kills = {"main": 0, "worker": 0}
    seen: set[int] = set()
    process = subprocess.Popen(command)
    try:
        while sum(kills.values()) < KILLS:
            time.sleep(chance.uniform(0.05, 1.2))
            assert process.poll() is None, f"done after {kills}: give it more to do"
            workers = psutil.Process(process.pid).children()
            seen |= {worker.pid for worker in workers}
            # Mostly those that have begun their work: five in a row that never did would be taken for a broken start.
            busy = [worker for worker in workers if time.time() - worker.create_time() > START_SECONDS]
            victims = busy if chance.random() < 0.8 else workers
            if victims and chance.random() < 0.6:
                kill(chance.choice(victims).pid)
                kills["worker"] += 1
            elif kills["main"] > kills["worker"] + 4:  # on a slow machine workers get no time to begin
                continue
            elif recorded(killed) or chance.random() < 0.2:  # let a new one begin its work, now and then not
                kill(process.pid)
                process.wait()
                kills["main"] += 1
                process = subprocess.Popen(command)
                time.sleep(chance.uniform(0, 6))
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
    assert sum(kills.values()) == KILLS and kills["main"] > 2 and kills["worker"] > 2
    assert table(killed) == table(calm)
    time.sleep(1)
    assert not [pid for pid in seen if psutil.pid_exists(pid)]  # no orphan trains on


def recorded(folder: Path) -> bool:
    return (folder / "studies.db").exists()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["loop", "lanes"])
@pytest.mark.parametrize("schedule", ["fifo", "asha"])
def test_one_worker_or_two_give_the_same_study(tmp_path: Path, schedule: str, engine: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, schedule, engine, 1, 16)
    run(two, schedule, engine, 2, 16)
    assert table(one) == table(two)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], 2, int(sys.argv[4]))
