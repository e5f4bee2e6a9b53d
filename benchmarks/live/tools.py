"""A tool at work on a problem, in a process of its own, until it is stopped: each as its documentation recommends.

    python -m benchmarks.live.tools TOOL PROBLEM DATA NOTES FOLDER SEED CORES EPOCH-LOOP MINUTES

Only what a tool needs is imported for it, since that is part of what it costs.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.live.notes import Notes
from benchmarks.live.problems import PROBLEMS
from rheostat.space import Choice, Float, Int


@dataclass(frozen=True)
class Run:
    """What a tool is given. `tight` is for those whose users write the training loop: an expert's, or the usual."""

    problem: str
    data: Path
    notes: Path
    folder: Path
    seed: int
    cores: int
    tight: bool
    minutes: float

    def arguments(self) -> list[str]:
        """As the command line takes them."""
        loop = "tight" if self.tight else "typical"
        parts = (self.problem, self.data, self.notes, self.folder, self.seed, self.cores, loop, self.minutes)
        return [str(part) for part in parts]

    @classmethod
    def from_arguments(cls, given: list[str]) -> Run:
        problem, data, notes, folder, seed, cores, loop, minutes = given
        paths = Path(data), Path(notes), Path(folder)
        return cls(problem, *paths, int(seed), int(cores), loop == "tight", float(minutes))


def rheostat(run: Run, engine: str = "auto", **settings: Any) -> None:
    """`rheostat.tune` with its defaults but for the engine; a watcher notes what the study sees."""
    import rheostat
    from benchmarks.live.networks import NETWORKS, tensors
    from rheostat.space import Space

    problem = PROBLEMS[run.problem]
    sizes, train, validation = tensors(run.data)
    by_loss = problem.metric == "loss"
    task = rheostat.Task(
        partial(NETWORKS[problem.network], sizes),
        train,
        validation,
        loss="tokens" if by_loss else "cross_entropy",
        metrics=() if by_loss else ("error",),
        metric=f"val_{problem.metric}",
        name=run.problem,
        device="cpu",
    )
    space = Space(**problem.space.tuned, optimizer="adamw", batch_size=problem.batch_size)
    notes = Notes(run.notes)
    notes.ready()
    given = {"trials": 10**6, "minutes": run.minutes} | settings
    rheostat.tune(
        task,
        space,
        epochs=problem.epochs,
        seed=run.seed,
        storage=run.folder / "studies.db",
        workers=run.cores,
        engine=engine,
        progress=Watching(notes),
        **given,
    )


class Watching:
    """Notes the best value of a study whenever there is a better one; looks 20 times a second at most."""

    def __init__(self, notes: Notes) -> None:
        self.notes, self.best, self.next_look = notes, float("inf"), 0.0

    def due(self) -> bool:
        return time.monotonic() > self.next_look

    def update(self, snapshot: Any) -> None:
        self.next_look = time.monotonic() + 0.05
        best = min((trial.best for trial in snapshot.trials), default=self.best)
        if best < self.best:
            self.best = best
            self.notes.value(best)

    def note(self, notice: Any) -> None:
        print(notice.message, flush=True)

    def close(self) -> None:
        pass


def optuna(run: Run) -> None:
    """TPE and the Hyperband pruner, in as many processes as cores, through a journal file.

    https://optuna.readthedocs.io: "Easy Parallelization", and `HyperbandPruner`'s own example.
    """
    workers = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.live.tools", f"optuna-worker-{number}", *run.arguments()])
        for number in range(run.cores)
    ]
    _wait(workers)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended. Raises SystemExit as soon as one has failed: the others alone would be slower."""
    while any(worker.poll() is None for worker in workers):
        if any(worker.poll() for worker in workers):
            raise SystemExit("A worker has failed.")
        time.sleep(0.2)


def optuna_worker(run: Run, number: int) -> None:
    import optuna
    import torch
    from optuna.storages.journal import JournalFileBackend

    from benchmarks.live.networks import Loop

    seed = run.seed * run.cores + number
    torch.manual_seed(seed)
    loop, notes, epochs = Loop(run.problem, run.data, run.tight), Notes(run.notes), PROBLEMS[run.problem].epochs
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    notes.ready()
    study = optuna.create_study(
        study_name=run.problem,
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(run.folder / "journal.log"))),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3),
        load_if_exists=True,
    )

    def objective(trial: optuna.Trial) -> float:
        config: dict[str, Any] = {}
        for name, part in PROBLEMS[run.problem].space.tuned.items():
            if isinstance(part, Choice):
                config[name] = trial.suggest_categorical(name, part.values)
            else:
                suggest = trial.suggest_int if isinstance(part, Int) else trial.suggest_float
                config[name] = suggest(name, part.low, part.high, log=part.log)
        best = float("inf")
        for epoch, value in enumerate(loop.epochs(config)):
            notes.value(value)
            best = min(best, value)
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    study.optimize(objective, timeout=60 * run.minutes)


def ray(run: Run) -> None:
    """ASHA on random configurations, one trial per core. https://docs.ray.io: "Tune Trial Schedulers"."""
    os.environ.update(RAY_AIR_NEW_OUTPUT="0", RAY_USAGE_STATS_ENABLED="0", RAY_TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1")
    import ray
    import torch  # as a script with a network in it does
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from benchmarks.live.networks import Loop

    random.seed(run.seed)
    torch.manual_seed(run.seed)
    problem = PROBLEMS[run.problem]

    def trainable(config: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        notes = Notes(run.notes)
        for value in Loop(run.problem, run.data, run.tight).epochs(config):
            notes.value(value)
            tune.report({"value": value})

    def domain(part: Float | Int | Choice) -> Any:
        if isinstance(part, Choice):
            return tune.choice(list(part.values))
        if isinstance(part, Int):
            return (tune.lograndint if part.log else tune.randint)(int(part.low), int(part.high) + 1)
        return (tune.loguniform if part.log else tune.uniform)(part.low, part.high)

    Notes(run.notes).ready()
    ray.init(num_cpus=run.cores, include_dashboard=False, log_to_driver=False, configure_logging=False)
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={name: domain(part) for name, part in problem.space.tuned.items()},
        tune_config=tune.TuneConfig(
            metric="value",
            mode="min",
            num_samples=-1,
            time_budget_s=60 * run.minutes,
            reuse_actors=True,
            scheduler=ASHAScheduler(max_t=problem.epochs, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(storage_path=str(run.folder), verbose=0),
    ).fit()


def keras_tuner(run: Run) -> None:
    """Hyperband around Keras 3, with a chief and as many workers as cores. https://keras.io: "Distributed tuning"."""
    port = str(20_000 + os.getpid() % 20_000)
    common = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    chief, *workers = (
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.live.keras_tuning", *run.arguments()],
            env={**os.environ, **common, "KERASTUNER_TUNER_ID": name},
        )
        for name in ("chief", *(f"tuner{number}" for number in range(run.cores)))
    )
    _wait(workers)  # the chief waits for ever
    chief.terminate()


TOOLS: Mapping[str, Callable[[Run], None]] = {
    "rheostat": partial(rheostat, engine="loop"),
    "rheostat-lanes": partial(rheostat, engine="lanes"),
    "optuna": optuna,
    "ray": ray,
    "keras-tuner": keras_tuner,
}


def main() -> None:
    tool, *given = sys.argv[1:]
    run = Run.from_arguments(given)
    if tool.startswith("optuna-worker-"):
        optuna_worker(run, int(tool.removeprefix("optuna-worker-")))
    elif tool.startswith("random-"):  # the yardstick: so many full trainings, whatever is measured
        rheostat(run, search="random", schedule="fifo", trials=int(tool.removeprefix("random-")))
    else:
        TOOLS[tool](run)


if __name__ == "__main__":
    main()
