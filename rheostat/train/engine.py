"""Which engine trains a task faster: one trial after another, or lanes? Measured on the task itself."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from torch import nn

from rheostat.train.lane_runner import LANES
from rheostat.train.lanes import Lanes, LanesError, lane_key, refusal
from rheostat.train.loop import Recorder, Training, is_out_of_memory
from rheostat.train.program import Program
from rheostat.train.task import Task
from rheostat.types import Config, Job

LEAST_LANES = 4  # of one structure, on average, below which lanes do not pay (docs/lanes.md)
# Of a step of one trial: below the first most of it is overhead, which lanes share; above the second it keeps a core
# busy, and they have nothing to share. In between both are tried.
QUICK_SECONDS, BUSY_SECONDS = 0.001, 0.03
# Of all training one by one: what lanes need to make up for their start-up, and a trial of both (some two seconds).
LEAST_SECONDS, LEAST_SECONDS_TO_TRY = 10.0, 60.0
LEAST_GAIN = 1.05
STEPS, TURNS, TURNS_SECONDS = 20, 5, 1.5
GROUPING = ("batch_size", "accumulate", "label_smoothing")  # what the trainer needs equal in a program


def choose(task: Task, configs: Sequence[Config], epochs: int) -> tuple[str, str]:
    """`loop` or `lanes`, and why, for a study that trains about `epochs` epochs in all.

    `configs` are examples of what will be trained, in the proportions in which it will be.
    """
    if why := refusal(task):
        return "loop", why
    try:
        apart = structural(task, configs)
        projections = {tuple(config.get(name) for name in apart) for config in configs[:LANES]}
        if LANES / len(projections) < LEAST_LANES:
            return "loop", f"trials differ in {', '.join(apart)}, so that few of them could share a program"
        return _measured(task, configs, apart, epochs)
    except LanesError as error:
        return "loop", str(error)
    except Exception as error:  # the user's model may raise anything; training will say it where it matters
        if is_out_of_memory(error):
            return "loop", f"{LANES} trials at once do not fit into memory"
        return "loop", f"lanes could not be tried ({type(error).__name__}: {error})"


def structural(task: Task, configs: Sequence[Config]) -> list[str]:
    """The hyperparameters whose values make networks different programs: found by building them."""
    first = configs[0]
    recorder = Recorder(first)
    task.model(recorder)
    read = recorder.read | set(GROUPING)
    key = lane_key(_training(task, first))
    found = []
    for name in first:
        other = next((config[name] for config in configs if name in config and config[name] != first[name]), None)
        if other is not None and name in read and lane_key(_training(task, Config({**first, name: other}))) != key:
            found.append(name)
    return found


def _measured(task: Task, configs: Sequence[Config], apart: Sequence[str], epochs: int) -> tuple[str, str]:
    """Train a few steps both ways, in turns."""
    first = configs[0]
    total = _training(task, first).batches.steps_per_epoch * epochs
    excerpt = _excerpt(task, first)
    alone = _training(excerpt, first)
    alone.train_epoch()
    step = min(seconds(alone.train_epoch) for _ in range(3)) / alone.batches.steps_per_epoch
    if step > BUSY_SECONDS:
        return "loop", f"a step takes {1000 * step:.0f} ms, which keeps a core busy: there is nothing to share"
    # torch's own LSTM is one fused kernel, which lanes do not always beat
    quick = step < QUICK_SECONDS and not any(isinstance(module, nn.LSTM) for module in alone.model.modules())
    if step * total < (LEAST_SECONDS if quick else LEAST_SECONDS_TO_TRY):
        return "loop", "there is too little to train for lanes to make up for their start-up"
    if quick:
        gain = f"a step of one trial takes only {1000 * step:.2f} ms, much of it overhead that they share"
    else:
        ratio = _ratio(excerpt, alone, [Config({**c, **{name: first[name] for name in apart}}) for c in configs])
        if ratio < LEAST_GAIN:
            return "loop", f"{LANES} lanes are {ratio:.2f} times as fast as one trial after another"
        gain = f"{ratio:.1f} times as fast as one after another"
    own = [name for name in first if name not in apart and len({config.get(name) for config in configs}) > 1]
    groups = f", in groups by {', '.join(apart)}" if apart else ""
    return "lanes", f"{LANES} trials as one program, each with its own {', '.join(own) or 'seed'}{groups}: {gain}"


def _ratio(task: Task, alone: Training, alike: Sequence[Config]) -> float:
    """How many times as fast as one trial after another lanes are, with configurations of one structure."""
    trainings = [_training(task, config, trial) for trial, config in enumerate(alike[:LANES])]
    together = Lanes(trainings, Program(trainings[0].model, trainings[0].loss_function, record_after=0.0))
    together.spot_check()
    for _ in range(2):  # the first runs under vmap, the second makes the recording
        together.train_epoch()
    ratios: list[float] = []
    until = time.perf_counter() + TURNS_SECONDS
    while len(ratios) < TURNS and (len(ratios) < 2 or time.perf_counter() < until):
        one = seconds(alone.train_epoch)
        ratios.append(len(trainings) * one / seconds(together.train_epoch))
    return statistics.median(ratios)


def seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def _training(task: Task, config: Config, trial: int = 0) -> Training:
    return Training(task, Job(trial, config, seed=trial, until_epoch=10**6, max_epochs=10**6))


def _excerpt(task: Task, config: Config) -> Task:
    """The task with the data of a few steps."""
    size = config.get("batch_size", 32)
    assert isinstance(task.train, tuple)
    rows = len(task.train[0]) if size == "full" else min(STEPS * size, len(task.train[0]))
    train = tuple(part[:rows] for part in task.train)
    validation = task.validation
    if isinstance(validation, tuple):
        share = max(rows * len(validation[0]) // len(task.train[0]), 1)
        validation = tuple(part[:share] for part in validation)
    return dataclasses.replace(task, train=train, validation=validation)
