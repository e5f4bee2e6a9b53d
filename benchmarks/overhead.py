"""What a tuner itself costs: trials per second on trivial trials, beside Optuna, both on SQLite.

    python -m benchmarks.overhead [--trials 1000] [--optuna-trials 1000] [--repeats 3]

Every trial reports ten values and has eight hyperparameters; nothing is trained. Each tool runs in processes of its
own, in turn, and the seconds are those of the run itself, without imports. Optuna is used as its documentation
shows (a study on SQLite, `suggest_*`, `trial.report`), with its default sampler and with random search, and with
its `NopPruner`, so that both tools do the same work. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPORTS = 10


def rheostat_run(folder: Path, trials: int) -> float:
    """Seconds for `trials` trials, every report committed before the next is measured."""
    import rheostat
    from rheostat import Choice, Float, Int, Space, Study

    space = Space(
        a=Float(1e-5, 1e-1, log=True),
        b=Float(0, 1),
        c=Float(1e-6, 1e-1, log=True),
        d=Float(0, 0.8),
        e=Int(1, 8),
        f=Int(16, 512, log=True),
        g=Choice(["x", "y", "z"]),
        h=Choice([32, 64, 128]),
    )

    def objective(trial: rheostat.Trial) -> None:
        for epoch in range(REPORTS):
            trial.report(val_loss=trial.a + trial.b + trial.c + trial.d + trial.e + trial.f + epoch)

    study = Study("overhead", space, storage=folder / "rheostat.db", seed=0)
    study.optimize(objective, trials=1, progress="none")  # imports
    start = time.perf_counter()
    study.optimize(objective, trials=trials + 1, progress="none")
    seconds = time.perf_counter() - start
    assert sum(trial.epochs for trial in study.trials) == REPORTS * (trials + 1)
    return seconds


def optuna_run(folder: Path, trials: int, sampler: str) -> float:
    """The same work with Optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        a = trial.suggest_float("a", 1e-5, 1e-1, log=True)
        b = trial.suggest_float("b", 0, 1)
        c = trial.suggest_float("c", 1e-6, 1e-1, log=True)
        d = trial.suggest_float("d", 0, 0.8)
        e = trial.suggest_int("e", 1, 8)
        f = trial.suggest_int("f", 16, 512, log=True)
        trial.suggest_categorical("g", ["x", "y", "z"])
        trial.suggest_categorical("h", [32, 64, 128])
        value = 0.0
        for epoch in range(REPORTS):
            value = a + b + c + d + e + f + epoch
            trial.report(value, epoch)
            trial.should_prune()
        return value

    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}",
        sampler=samplers[sampler](seed=0),
        pruner=optuna.pruners.NopPruner(),
    )
    study.optimize(objective, n_trials=1)
    start = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - start


def measure(tool: str, trials: int) -> float:
    """Trials per second of one tool, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--one", tool, "--trials", str(trials)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--optuna-trials", type=int, default=None, help="fewer, to save time [default: --trials]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=["rheostat", "optuna-tpe", "optuna-random"])
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            if options.one == "rheostat":
                seconds = rheostat_run(Path(folder), options.trials)
            else:
                seconds = optuna_run(Path(folder), options.trials, options.one.removeprefix("optuna-"))
        print(json.dumps(options.trials / seconds))
        return
    tools = {
        "rheostat": options.trials,
        "optuna-random": options.optuna_trials or options.trials,
        "optuna-tpe": options.optuna_trials or options.trials,
    }
    speeds: dict[str, list[float]] = {tool: [] for tool in tools}
    for _ in range(options.repeats):
        for tool, trials in tools.items():
            speeds[tool].append(measure(tool, trials))
    print(f"{'tool':<16}{'trials':>8}{'trials/s (median)':>20}{'min':>10}{'max':>10}")
    for tool, trials in tools.items():
        found = speeds[tool]
        print(f"{tool:<16}{trials:>8}{statistics.median(found):>20.1f}{min(found):>10.1f}{max(found):>10.1f}")
    for tool in ("optuna-random", "optuna-tpe"):
        ratios = [ours / theirs for ours, theirs in zip(speeds["rheostat"], speeds[tool], strict=True)]
        print(f"rheostat / {tool}: {statistics.median(ratios):.0f} times (median of {len(ratios)} pairs)")


if __name__ == "__main__":
    main()
