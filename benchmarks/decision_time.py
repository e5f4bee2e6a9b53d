"""What a decision of the default costs, beside Optuna: processor milliseconds and memory.

    python -m benchmarks.decision_time [--trials 100 1000 10000] [--repeats 5] [--no-optuna]

The space has ten hyperparameters, continuous, whole and categorical, some under conditions. The trials stand after 1,
3, 9, 27 or 81 epochs, 20 on average; every epoch is a report. Milliseconds are of processor time, the median of
`--repeats` decisions: for 64 free places and for one, by a method that reads the whole history for the first time (a
study that is opened again), and by one that has read it before, since when a few trials went on. A decision may be a
start or a thaw; "64 new" are 64 new configurations alone. Memory is the peak that a first decision allocates, the
history itself apart.

Optuna's samplers suggest one configuration from as many finished trials, in a study in memory; sizes at which one would
take more than a minute are left out. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import History, Status, TrialRecord

MAX_EPOCHS = 81
DEEPEST = np.array([1, 3, 9, 27, 81])
SHARES = np.array([0.32, 0.2, 0.18, 0.13, 0.17])  # of trials that stand at each; 20 epochs a trial on average
GP_MOST = 300  # trials, up to which Optuna's Gaussian process suggests within a minute on a slow machine


def space() -> Space:
    return Space(
        optimizer=Choice(["adamw", "sgd", "lion"]),
        lr=Float(1e-5, 1e-1, log=True),
        weight_decay=Float(1e-6, 1e-1, log=True),
        momentum=Float(0.5, 0.99, when={"optimizer": "sgd"}),
        beta2=Float(0.9, 0.9999, when={"optimizer": ["adamw", "lion"]}),
        layers=Int(1, 8),
        width=Int(16, 512, log=True),
        dropout=Float(0.0, 0.8),
        activation=Choice(["relu", "gelu", "silu", "tanh"]),
        batch_size=Choice([32, 64, 128, 256]),
    )


def history_of(trials: int, seed: int = 0) -> History:
    """Trials whose curves fall to an end that depends on their configurations; 5 % diverge."""
    rng = np.random.default_rng(seed)
    where = space()
    records = []
    for number, config in enumerate(where.sample(rng, trials)):
        unit = np.nan_to_num(where.encode(config), nan=0.5)
        floor = float(((unit - 0.6) ** 2).sum())
        epochs = int(rng.choice(DEEPEST, p=SHARES))
        curve = floor + np.exp(-0.3 * np.arange(epochs)) + 0.02 * rng.random(epochs)
        status = Status.DONE if epochs == MAX_EPOCHS else Status.PAUSED
        if rng.random() < 0.05:
            curve[-1], status = np.nan, Status.INFEASIBLE
        records.append(TrialRecord(number, config, status, tuple(curve.tolist()), epochs))
    return History(tuple(records))


def milliseconds(work: Callable[..., object], *given: object) -> float:
    began = time.process_time()
    work(*given)
    return 1000 * (time.process_time() - began)


def gone_on(history: History, rng: np.random.Generator, many: int = 8) -> History:
    """The history when a few more trials have trained one epoch more."""
    trials = list(history.trials)
    able = [trial for trial in trials if trial.status is Status.PAUSED]
    for place in rng.choice(len(able), size=min(many, len(able)), replace=False):
        trial = able[place]
        trials[trial.number] = replace(trial, values=(*trial.values, trial.best))
    return History(tuple(trials))


def ours(history: History, repeats: int) -> dict[str, float]:
    """The medians by what was timed."""
    found: dict[str, list[float]] = {}
    warm = FreezeThaw(space(), None, MAX_EPOCHS)
    warm.next(history, 64, np.random.default_rng(0))
    for repeat in range(repeats):
        for free in (1, 64):
            cold = FreezeThaw(space(), None, MAX_EPOCHS)
            rng = np.random.default_rng([repeat, free])
            found.setdefault(f"cold, {free} free", []).append(milliseconds(cold.next, history, free, rng))
            history = gone_on(history, rng)
            found.setdefault(f"warm, {free} free", []).append(milliseconds(warm.next, history, free, rng))
        found.setdefault("warm, 64 new", []).append(milliseconds(warm.suggest, history, 64, rng))
    return {name: statistics.median(times) for name, times in found.items()}


def memory(history: History) -> tuple[float, float]:
    """MB at the peak of a first decision, and kept by the method after it."""
    method = FreezeThaw(space(), None, MAX_EPOCHS)
    tracemalloc.start()
    method.next(history, 64, np.random.default_rng(0))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6, kept / 1e6


def optuna_times(history: History, repeats: int) -> dict[str, float]:
    """Milliseconds for one suggestion by Optuna's samplers, each as it comes."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds: dict[str, Any] = {"Optuna TPE": optuna.samplers.TPESampler(seed=0)}
    if len(history.trials) <= GP_MOST:
        kinds["Optuna GP"] = optuna.samplers.GPSampler(seed=0)
    ranges = distributions()
    found = {}
    for name, sampler in kinds.items():
        study = optuna.create_study(sampler=sampler)
        for record in history.trials:
            values = dict(record.config)
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions={key: ranges[key] for key in values}, value=min(record.best, 1e6)
                )
            )
        many = repeats if name == "Optuna TPE" else 2
        found[name] = statistics.median(milliseconds(ask, study) for _ in range(many))
    return found


def distributions() -> dict[str, Any]:
    """The space in Optuna's words."""
    import optuna

    found: dict[str, Any] = {}
    for name, part in space().tuned.items():
        if isinstance(part, Choice):
            found[name] = optuna.distributions.CategoricalDistribution(part.values)
        else:
            whole = isinstance(part, Int)
            kind = optuna.distributions.IntDistribution if whole else optuna.distributions.FloatDistribution
            found[name] = kind(part.low, part.high, log=part.log)
    return found


def ask(study: Any) -> None:
    """One configuration, with the conditions as Python's own."""
    trial, where = study.ask(), space()
    values: dict[str, Any] = {}
    for name, part in where.tuned.items():
        if not where.is_active(name, values):
            continue
        if isinstance(part, Choice):
            values[name] = trial.suggest_categorical(name, part.values)
        elif isinstance(part, Int):
            values[name] = trial.suggest_int(name, part.low, part.high, log=part.log)
        else:
            values[name] = trial.suggest_float(name, part.low, part.high, log=part.log)
    return values


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.decision_time", None, __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000], metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="R")
    parser.add_argument("--no-optuna", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # Optuna's, about experimental parts
    for trials in given.trials:
        history = history_of(trials)
        reports = sum(trial.epochs for trial in history.trials)
        print(f"{trials:,} trials, {reports:,} reports")
        for name, time_taken in ours(history, given.repeats).items():
            print(f"  {name:14} {time_taken:8.1f} ms")
        peak, kept = memory(history)
        print(f"  memory         {peak:8.1f} MB at the peak, {kept:.1f} MB kept", flush=True)
        if not given.no_optuna:
            for name, time_taken in optuna_times(history, given.repeats).items():
                print(f"  {name:14} {time_taken:8.1f} ms for one suggestion", flush=True)


if __name__ == "__main__":
    main()
