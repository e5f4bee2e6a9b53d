"""Several objectives and limits: Rheostat beside Optuna and random search, at equal numbers of epochs.

    python -m benchmarks.objectives --seeds 5 --trainings 20 --json rows.jsonl

The hypervolume of what was found; for the problem with limits, of the trials that keep them. Optuna does not stop
trials early where there are several objectives, so each of its trials is a full training; Rheostat spends as many
epochs on shorter ones.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rheostat import Float, Int, Space, Study, Trial
from rheostat.front import hypervolume

EPOCHS = 27
Values = dict[str, float]


@dataclass(frozen=True)
class Problem:
    """`measure(config, epoch)` gives the metrics, the study's first; `scale` what spans a volume to `reference`."""

    space: Space
    measure: Callable[[Mapping[str, Any], int], Values]
    reference: tuple[float, ...]
    scale: Callable[[Values], tuple[float, ...]]
    limits: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)


def zdt1(config: Mapping[str, Any], epoch: int) -> Values:
    """Zitzler, Deb and Thiele 2000, ZDT1 in six dimensions, approached as training goes on."""
    x = np.array([config[f"x{i}"] for i in range(6)])
    g = 1 + 9 * float(x[1:].mean())
    slow = 0.3 * (0.5 + x[1]) * epoch**-0.7
    return {"one": float(x[0] + slow), "two": g * (1 - math.sqrt(x[0] / g)) + 2 * slow}


def dtlz2(config: Mapping[str, Any], epoch: int) -> Values:
    """Deb et al. 2002, DTLZ2 with three objectives in six dimensions, approached as training goes on."""
    x = np.array([config[f"x{i}"] for i in range(6)])
    g = 1 + 4 * float(((x[2:] - 0.5) ** 2).sum())
    a, b = x[:2] * math.pi / 2
    slow = 0.5 * (0.5 + x[3]) * epoch**-0.7
    one, two, three = g * math.cos(a) * math.cos(b), g * math.cos(a) * math.sin(b), g * math.sin(a)
    return {"one": one + slow, "two": two + slow, "three": three + slow}


def network(config: Mapping[str, Any], epoch: int) -> Values:
    """A made-up network: larger ones can learn more, learn at other rates, and overfit unless they are held back."""
    size = 74 * config["units"] + config["units"] ** 2 * (config["layers"] - 1)
    capacity = 0.02 + 0.6 * (size / 1000) ** -0.45
    off = math.log10(config["lr"]) + 2.3 + 0.5 * math.log10(config["units"] / 64)
    restraint = 2 * config["dropout"] + 0.2 * (math.log10(config["weight_decay"]) + 6)
    over = 0.05 * max(0.0, math.log10(size) - 4.5 - restraint) ** 2
    under = 0.15 * max(0.0, config["dropout"] - 0.1 - 0.1 * math.log10(size / 1000))
    final = min(capacity + over + under + 0.06 * off**2, 0.9)
    speed = 0.5 * 10 ** (0.3 * min(off, 0.0))
    error = 0.9 if off > 1.3 else final + (0.9 - final) * math.exp(-speed * epoch**0.7)
    return {"error": error, "parameters": float(size)}


UNITS = Space({f"x{i}": Float(0, 1) for i in range(6)})
NETWORK = Space(
    lr=Float(1e-5, 1.0, log=True),
    layers=Int(1, 6),
    units=Int(8, 1024, log=True),
    weight_decay=Float(1e-6, 1e-1, log=True),
    dropout=Float(0.0, 0.8),
)
PROBLEMS = {
    "zdt1": Problem(UNITS, zdt1, (1.2, 4.0), lambda v: (v["one"], v["two"]), also={"two": "minimize"}),
    "dtlz2": Problem(
        UNITS, dtlz2, (1.6,) * 3, lambda v: tuple(v.values()), also={"two": "minimize", "three": "minimize"}
    ),
    "network": Problem(
        NETWORK,
        network,
        (0.9, 6.0),
        lambda v: (v["error"], math.log10(v["parameters"])),
        also={"parameters": "minimize"},
    ),
    # Of points drawn at random, one in twenty keeps the limit; the metric pulls away from it.
    "limited": Problem(NETWORK, network, (0.9,), lambda v: (v["error"],), limits=("parameters <= 900",)),
}


def rheostat(problem: Problem, trainings: int, seed: int, search: str, schedule: str) -> list[Values]:
    """The last metrics of every trial, within so many epochs."""
    metric = next(iter(problem.measure(problem.space.likely(), 1)))
    spent: set[tuple[int, int]] = set()

    def objective(trial: Trial) -> None:
        for epoch in trial.epochs():
            trial.report(**problem.measure(trial.config, epoch + 1))
            spent.add((trial.number, epoch))
            if len(spent) >= trainings * EPOCHS:
                raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        study = Study(
            "s",
            problem.space,
            metric=metric,
            also=problem.also,
            limits=problem.limits,
            seed=seed,
            storage=Path(folder) / "s.db",
        )
        with suppress(KeyboardInterrupt):
            study.optimize(objective, epochs=EPOCHS, search=search, schedule=schedule, progress="none")
        return [problem.measure(trial.config, trial.epochs) for trial in study.trials if trial.epochs]


def optuna(problem: Problem, trainings: int, seed: int, name: str) -> list[Values]:
    """The same of full trainings, by a sampler of Optuna with its defaults."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    limits = [(text.split(" <= ")[0], float(text.split(" <= ")[1])) for text in problem.limits]

    def constraints(trial: Any) -> list[float]:
        return [trial.user_attrs["measured"][metric] - bound for metric, bound in limits]

    kinds: dict[str, Any] = {"nsga2": optuna.samplers.NSGAIISampler, "tpe": optuna.samplers.TPESampler}
    sampler = kinds[name](seed=seed, constraints_func=constraints if limits else None)
    found: list[Values] = []

    def objective(trial: Any) -> Any:
        config = {
            n: (trial.suggest_int if isinstance(part, Int) else trial.suggest_float)(
                n, part.low, part.high, log=part.log
            )
            for n, part in problem.space.items()
        }
        measured = problem.measure(config, EPOCHS)
        trial.set_user_attr("measured", measured)
        found.append(measured)
        return [next(iter(measured.values())), *(measured[metric] for metric in problem.also)]

    optuna.create_study(directions=["minimize"] * (1 + len(problem.also)), sampler=sampler).optimize(
        objective, n_trials=trainings
    )
    return found


METHODS: dict[str, Callable[[Problem, int, int], list[Values]]] = {
    "default": lambda problem, n, seed: rheostat(problem, n, seed, "auto", "auto"),
    "asha": lambda problem, n, seed: rheostat(problem, n, seed, "sobol", "asha"),
    "random": lambda problem, n, seed: rheostat(problem, n, seed, "random", "fifo"),
    "optuna-tpe": lambda problem, n, seed: optuna(problem, n, seed, "tpe"),
    "optuna-nsga2": lambda problem, n, seed: optuna(problem, n, seed, "nsga2"),
}


def worth(problem: Problem, found: list[Values]) -> float:
    """The volume that is dominated by those that keep the limits."""
    bounds = [(text.split(" <= ")[0], float(text.split(" <= ")[1])) for text in problem.limits]
    kept = [problem.scale(v) for v in found if all(v[metric] <= bound for metric, bound in bounds)]
    points = np.array(kept, dtype=float).reshape(-1, len(problem.reference))
    return hypervolume(points, np.array(problem.reference))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--trainings", type=int, default=20, help="the budget, in full trainings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file to which a line is added for each run")
    given = parser.parse_args()
    print(f"{'problem':<10}{'method':<14}{'volume':>8}{'±':>8}{'seconds':>9}")
    for name in given.problems.split(","):
        for method in given.methods.split(","):
            volumes, began = [], time.process_time()
            for seed in range(given.seeds):
                volumes.append(worth(PROBLEMS[name], METHODS[method](PROBLEMS[name], given.trainings, seed)))
                if given.json:
                    row = {"problem": name, "method": method, "seed": seed, "trainings": given.trainings}
                    with given.json.open("a") as file:
                        file.write(json.dumps({**row, "volume": volumes[-1]}) + "\n")
            error = float(np.std(volumes)) / math.sqrt(len(volumes))
            seconds = (time.process_time() - began) / given.seeds
            print(f"{name:<10}{method:<14}{np.mean(volumes):8.3f}{error:8.3f}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
