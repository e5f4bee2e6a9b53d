"""Makes the controlled runs: python -m benchmarks.pathologies.make DATASETS FOLDER [--cell digits-mlp] [--bases A B]

Every label is by intervention. A base configuration is tuned first: its learning rate is swept, then cures are tried
(decay, twice the epochs, twice the width, more regularisation, less), and one that helps is adopted, until none does.
What a cure helped is a run with that fault; the tuned base, at rates and seeds that come within 5 % of its best, or
one standard deviation, is healthy. Then the sweep gives rates too low and too high, and faults are planted in the base
one at a time; the label is kept where the base is better by 5 % and by two standard deviations of its seeds. Values
are the lowest validation loss of a run. Last, runs are forked (`probe/counterfactual.py`), and the effects are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pathologies.data import NAMES, Data, load
from benchmarks.pathologies.fused import Trained, train
from benchmarks.pathologies.networks import ARCHITECTURES, build
from rheostat.diagnose.observations import LabelledRun, write_runs
from rheostat.probe import counterfactual
from rheostat.train.program import Program
from rheostat.train.task import Task
from rheostat.types import Config, Job, derive_seed

GAIN = 0.05  # that a cure must bring, beside two standard deviations
LEARNS = 0.94  # of the loss of one who knows the frequencies alone: what a tuned base must come below
PROBED = 5  # healthy runs of a base that are forked; of the sick ones all but the second draw of each plant
DOMINANT = 1.5  # times the gain of any other cure
ROUNDS = 3  # of tuning a base
SEEDS = 4
STEPS = {"mlp": 300, "rnn": 200, "cnn": 200, "transformer": 150}  # of a base, at most, but for six epochs
HIDDEN = ("init", "bias", "frozen", "softmax", "in_order")  # of a configuration: what the diagnoser never sees
NEAR = (0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2, 1.2, 1.4, 1.6, 2.0)  # of the best rate
RATES = {"sgd": (-4.0, 1.0), "adaptive": (-5.0, 0.0)}  # decades


@dataclass(frozen=True)
class Spoil:
    """What is done to the data: nothing, wrong labels for a share of them, features in units of their own and not
    centred (`amount` is the deviation of their sizes in decades), or a share of the training examples alone."""

    kind: str = ""
    amount: float = 0.0
    seed: int = 0

    def __call__(self, data: Data) -> Data:
        generator = torch.Generator().manual_seed(self.seed)
        x, y = data.train
        if self.kind == "labels":
            chosen = torch.rand(len(y), generator=generator) < self.amount
            others = (y + torch.randint(1, max(data.classes, 2), y.shape, generator=generator)) % data.classes
            return replace(data, train=(x, torch.where(chosen, others, y)))
        if self.kind == "units":
            factors = 10 ** (self.amount * torch.randn(x.shape[1:], generator=generator))
            offsets = 2 * torch.rand(x.shape[1:], generator=generator)
            train, validation = (((part[0] + offsets) * factors, part[1]) for part in (data.train, data.validation))
            return replace(data, train=train, validation=validation)
        if self.kind == "few":
            return replace(data, train=(x[: int(self.amount * len(y))], y[: int(self.amount * len(y))]))
        return data


@dataclass
class Bench:
    """One base configuration under study: its task, and what has been trained of it."""

    data: Data
    architecture: str
    seed: int
    programs: dict[str, Program] = field(default_factory=dict)
    trained: int = 0

    def task(self, spoil: Spoil | None = None) -> Task:
        data, architecture = self.data if spoil is None else spoil(self.data), self.architecture

        def network(config: Config) -> torch.nn.Module:
            return build(data, architecture, config)

        return Task(network, data.train, data.validation, name="controlled", device="cpu")

    def run(self, task: Task, configs: Sequence[Config], seeds: Sequence[int]) -> list[Trained]:
        jobs = []
        for config, seed in zip(configs, seeds, strict=True):
            self.trained += 1
            epochs = config["epochs"]
            jobs.append(Job(self.trained, config, derive_seed(self.seed, seed), epochs, epochs))
        return train(task, jobs, self.programs)


def base_config(rng: random.Random, data: Data, architecture: str) -> Config:
    """A network and a way to train it as people choose them, but for the learning rate."""
    optimizer = rng.choice(["sgd", "momentum", "adam", "adam", "adamw", "adagrad"])
    values: dict[str, Any] = {
        "optimizer": "sgd" if optimizer == "momentum" else optimizer,
        "batch_size": rng.choice([16, 32, 32, 64] if architecture == "mlp" else [32, 64]),
        "epochs": rng.choice([8, 10, 12, 16]),
        "schedule": rng.choice(["constant", "constant", "cosine", "cosine", "linear"]),
        "dropout": rng.choice([0.0, 0.0, 0.1, 0.2]),
        "activation": rng.choice(["relu", "relu", "tanh", "gelu"]),
        "units": rng.choice({"mlp": [16, 32, 64], "cnn": [4, 8], "rnn": [8, 16], "transformer": [8, 16]}[architecture]),
        "layers": rng.choice(
            {"mlp": [1, 2, 3], "cnn": [1, 2, 2], "rnn": [1, 1, 2], "transformer": [1, 1, 2]}[architecture]
        ),
    }
    steps = math.ceil(len(data.train[1]) / values["batch_size"])
    values["epochs"] = max(min(values["epochs"], STEPS[architecture] // steps), 6)
    if optimizer == "momentum":
        values["momentum"] = 0.9
    if optimizer == "adamw":
        values["weight_decay"] = 0.01
    if architecture == "rnn":
        values["cell"] = rng.choice(["gru", "lstm", "rnn"])
    if architecture == "transformer" and values["schedule"] != "constant":
        values["warmup"] = 0.1
    return Config(values)


def with_(config: Config, **values: Any) -> Config:
    return Config({**config, **values})


def rates(config: Config, step: float) -> list[float]:
    low, high = RATES["sgd" if config.optimizer == "sgd" else "adaptive"]
    return [float(f"{10**e:.4g}") for e in np.arange(low, high + 1e-9, step)]


def cures(config: Config) -> dict[str, Config]:
    """What might help a base, by the name of what it then had."""
    found = {
        "too_short": with_(config, epochs=2 * config.epochs),
        "too_small": with_(config, units=2 * config.units),
        "overfitting": with_(config, dropout=min(config.dropout + 0.3, 0.7)),
    }
    if config.schedule == "constant":
        found["needs_decay"] = with_(config, schedule="cosine")
    if config.dropout:
        found["over_regularised"] = with_(config, dropout=0.0)
    return found


# -- a base is tuned -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """A run with its label, and the log validation loss that its cure comes to."""

    name: str
    run: Trained
    task: Task
    oracle: float
    spoil: Spoil = Spoil()
    forked: bool = True


@dataclass
class Tuned:
    """A base at its best rate: its runs with several seeds, and their level in log validation loss."""

    config: Config
    runs: list[Trained]
    clean: bool = False  # no cure helps it any more

    @property
    def level(self) -> float:
        return float(np.mean(logs(self.runs)))

    @property
    def sigma(self) -> float:
        return max(float(np.std(logs(self.runs), ddof=1)), 0.01)

    def helped(self, cured: Sequence[Trained]) -> float:
        """The gain of a cure, as a difference of logarithms; 0 where it is within noise."""
        gain = self.level - float(np.mean(logs(cured)))
        noise = 2 * self.sigma * math.sqrt(1 / len(cured) + 1 / len(self.runs))
        return gain if gain > max(-math.log(1 - GAIN), noise) else 0.0


def logs(runs: Sequence[Trained]) -> list[float]:
    return [math.log(max(run.value, 1e-12)) if math.isfinite(run.value) else 10.0 for run in runs]


def tune(bench: Bench, config: Config, labelled: list[Labelled]) -> Tuned | None:
    """Adopt cures until none helps; what had a fault on the way is labelled. None where nothing trains."""
    task = bench.task()
    grid = rates(config, 1.0)
    for _ in range(ROUNDS):
        swept = bench.run(task, [with_(config, lr=lr) for lr in grid], [0] * len(grid))
        best = min(swept, key=lambda run: run.value)
        if not math.isfinite(best.value):
            return None
        config = best.job.config
        runs = [best, *bench.run(task, [config] * (SEEDS - 1), range(1, SEEDS))]
        tuned = Tuned(config, runs)
        candidates = cures(config)
        tried = bench.run(task, [c for c in candidates.values() for _ in range(2)], [1, 2] * len(candidates))
        gains = {name: tuned.helped(tried[2 * i : 2 * i + 2]) for i, name in enumerate(candidates)}
        winner = max(gains, key=lambda name: gains[name])
        if gains[winner] == 0:
            return replace(tuned, clean=True)
        if all(gains[winner] >= DOMINANT * gain for name, gain in gains.items() if name != winner):
            labelled += [Labelled(winner, run, task, tuned.level - gains[winner]) for run in runs[:3]]
        config = candidates[winner]
        if config.epochs > 48 or config.units > 64:
            return tuned
        grid = [float(f"{config.lr * factor:.4g}") for factor in (0.316, 1.0, 3.16)]
    return tuned


# -- plants --------------------------------------------------------------------------------------------------


Plant = tuple[str, Config, Spoil]


def plants(config: Config, data: Data, architecture: str, rng: random.Random) -> list[Plant]:
    """Faults to be planted in a tuned base: the name, the spoilt configuration, and what is done to the data."""
    seed = rng.randrange(10**6)
    n = len(data.train[1])
    squashing = config.activation == "tanh" if architecture != "rnn" else config.cell == "rnn"
    found: list[Plant] = [
        (
            "saturated_units" if squashing else "bad_initialisation",
            with_(config, init=rng.choice([5.0, 8.0, 12.0])),
            Spoil(),
        ),
        ("label_noise", config, Spoil("labels", rng.choice([0.2, 0.3, 0.4]), seed)),
        ("not_shuffled", with_(config, in_order=True), Spoil()),
        ("frozen_layer", with_(config, frozen=True), Spoil()),
        ("double_softmax", with_(config, softmax=True), Spoil()),
        ("too_small", with_(config, units={"mlp": 2, "cnn": 1, "rnn": 2, "transformer": 4}[architecture]), Spoil()),
        ("too_short", with_(config, epochs=max(config.epochs // rng.choice([4, 6]), 2)), Spoil()),
        ("batch_too_large", with_(config, batch_size=rng.choice([n, n // 2])), Spoil()),
        ("clipped_too_hard", with_(config, clip_norm=rng.choice([1e-2, 1e-3])), Spoil()),
        ("over_regularised", over_regularised(config, rng), Spoil()),
        ("decay_too_early", decayed(config, rng), Spoil()),
    ]
    if architecture != "rnn":
        found.append(("dead_units", with_(config, activation="relu", bias=-rng.choice([1.5, 2.5, 4.0])), Spoil()))
        deep = with_(config, activation="sigmoid", layers=config.layers + rng.choice([3, 4]), init=0.5)
        found.append(("vanishing_gradient", deep, Spoil()))
        found.append(("saturated_units", with_(config, activation="tanh", init=rng.choice([8.0, 15.0])), Spoil()))
    else:
        found.append(("vanishing_gradient", with_(config, cell="rnn", init=0.2), Spoil()))
        found.append(("saturated_units", with_(config, cell="rnn", init=rng.choice([8.0, 15.0])), Spoil()))
    if not data.tokens:
        found.append(("input_scale", config, Spoil("units", rng.choice([1.0, 1.5, 2.0]), seed)))
    return found


def over_regularised(config: Config, rng: random.Random) -> Config:
    if rng.random() < 0.5:
        return with_(config, dropout=rng.choice([0.8, 0.9]))
    decay = rng.choice([3.0, 10.0]) if config.optimizer == "adamw" else rng.choice([0.03, 0.1])
    return with_(config, weight_decay=decay)


def decayed(config: Config, rng: random.Random) -> Config:
    """The rate falls to next to nothing in the first part of the run."""
    at = max(round(config.epochs * rng.choice([0.1, 0.15])), 1)
    rest = {name: value for name, value in config.items() if name != "warmup"}
    if rng.random() < 0.5:
        return Config({**rest, "schedule": "step", "decay_rate": 0.01, "decay_every": at})
    return Config({**rest, "schedule": "exponential", "decay_rate": 0.1, "decay_every": at})


# -- all of one base -----------------------------------------------------------------------------------------


def controlled(data: Data, architecture: str, index: int) -> tuple[list[LabelledRun], dict[str, Any]]:
    """Labelled runs of one base configuration, and the recipe of each by its id."""
    rng = random.Random(f"{data.name} {architecture} {index}")
    bench = Bench(data, architecture, derive_seed("controlled", data.name, architecture, index))
    labelled: list[Labelled] = []
    tuned = tune(bench, base_config(rng, data, architecture), labelled)
    if tuned is None or tuned.level > math.log(LEARNS * tuned.runs[0].observations.facts["prior_loss"]):
        return [], {}
    task = bench.task()
    grid = rates(tuned.config, 0.5)
    swept = bench.run(task, [with_(tuned.config, lr=lr) for lr in grid], [1] * len(grid))
    close = [with_(tuned.config, lr=float(f"{tuned.config.lr * f:.4g}")) for f in NEAR]
    near = bench.run(task, close, range(10, 10 + len(close))) if tuned.clean else []
    reference = Tuned(tuned.config, [*tuned.runs, *(r for r in near if r.job.config.lr == tuned.config.lr)])
    level = min(reference.level, min(logs(swept)) + reference.sigma)
    sick = level + max(-math.log(1 - GAIN), 2 * reference.sigma)
    best = min(swept, key=lambda run: run.value).job.config.lr
    healthy = level + max(-math.log(1 - GAIN), reference.sigma)
    well = [*tuned.runs, *near] if tuned.clean else []
    for run in swept:
        if logs([run])[0] > sick:
            diverged = run.end is None or loss_rose(run)
            name = "diverged" if diverged else "lr_too_low" if run.job.config.lr < best else "lr_too_high"
            labelled.append(Labelled(name, run, task, level))
        elif tuned.clean:
            well.append(run)
    labelled += [Labelled("healthy", run, task, level) for run in well if logs([run])[0] <= healthy]
    plant(bench, tuned.config, level, sick, rng, labelled)
    effects = forked(bench, labelled)
    described = [_described(*each, bench, n, index) for n, each in enumerate(zip(labelled, effects, strict=True))]
    return described, {run.id: _recipe(entry) for run, entry in zip(described, labelled, strict=True)}


def loss_rose(run: Trained) -> bool:
    """Whether the training loss ended far above that of the untrained network."""
    first, curve = run.observations.first.get(0, math.inf), run.observations.curve("train_loss")
    return bool(len(curve)) and float(curve[-1]) > 2 * first


def plant(
    bench: Bench, config: Config, level: float, sick: float, rng: random.Random, labelled: list[Labelled]
) -> None:
    """Faults, one at a time, where they make the base worse."""
    by_data: dict[Spoil, list[tuple[str, Config, int]]] = {}
    for draw in range(2):
        for name, spoilt, spoil in plants(config, bench.data, bench.architecture, rng):
            by_data.setdefault(spoil, []).append((name, spoilt, 3 + draw))
    for spoil, entries in by_data.items():
        task = bench.task(spoil)
        runs = bench.run(task, [spoilt for _, spoilt, _ in entries], [seed for _, _, seed in entries])
        for (name, _, seed), run in zip(entries, runs, strict=True):
            if logs([run])[0] <= sick:
                continue
            if name == "too_short":  # unless a higher rate would do as well
                faster = bench.run(task, [with_(run.job.config, lr=3 * run.job.config.lr)], [3])
                if logs(faster)[0] < logs([run])[0] - 0.7 * (logs([run])[0] - sick):
                    continue
            labelled.append(Labelled(name, run, task, level, spoil, forked=seed == 3))
    spoil = Spoil("few", max(rng.choice([0.08, 0.15]), 40 / len(bench.data.train[1])))
    task = bench.task(spoil)
    wide = with_(config, units=2 * config.units, dropout=0.0, batch_size=min(config.batch_size, 16))
    tuned = Tuned(wide, bench.run(task, [wide] * 3, range(3)))
    remedies = [with_(wide, dropout=0.5), with_(wide, units=max(wide.units // 4, 4)), with_(wide, label_smoothing=0.1)]
    gain = max(tuned.helped(bench.run(task, [remedy] * 2, range(2))) for remedy in remedies)
    if gain:
        labelled += [Labelled("overfitting", run, task, tuned.level - gain, spoil) for run in tuned.runs[:2]]


def forked(bench: Bench, labelled: Sequence[Labelled]) -> list[Mapping[str, float]]:
    """The effects of the counterfactuals of every run; none where it did not come to its end."""
    by_task: dict[int, list[int]] = {}
    healthy = [place for place, entry in enumerate(labelled) if entry.name == "healthy"]
    passed_over = set(healthy) - set(healthy[:: max(len(healthy) // PROBED, 1)])
    for place, entry in enumerate(labelled):
        if entry.run.end is not None and entry.forked and place not in passed_over:
            by_task.setdefault(id(entry.task), []).append(place)
    found: dict[int, Mapping[str, float]] = {}
    for places in by_task.values():
        jobs, parents, owners = [], [], []
        for place in places:
            run = labelled[place].run
            epoch = run.job.max_epochs
            more = counterfactual.length(epoch)
            lr = float(run.observations.curve("lr")[-1])
            arms = counterfactual.arms(run.job.config, epoch, more, lr)
            for name, job in counterfactual.jobs(run.job, arms, epoch, more, bench.trained + 1).items():
                bench.trained += 1
                jobs.append(job)
                parents.append(run if name in counterfactual.FORKS else None)
                owners.append((place, name))
        trained = train(labelled[places[0]].task, jobs, bench.programs, parents)
        for place in places:
            seen = {n: t.observations for (p, n), t in zip(owners, trained, strict=True) if p == place}
            found[place] = counterfactual.effects(labelled[place].run.observations, seen)
    return [found.get(place, {}) for place in range(len(labelled))]


def _described(entry: Labelled, probe: Mapping[str, float], bench: Bench, number: int, index: int) -> LabelledRun:
    config = entry.run.job.config
    seen = {key: value for key, value in config.items() if key not in HIDDEN}
    group = f"{bench.data.name}-{bench.architecture}-{index}"
    return LabelledRun(
        f"{group}-{number}",
        entry.name,
        replace(entry.run.observations, config=Config(seen)),
        bench.data.name,
        bench.architecture,
        str(config.optimizer),
        group,
        {key: value for key, value in probe.items() if not math.isnan(value)},
    )


def _recipe(entry: Labelled) -> dict[str, Any]:
    """What it takes to train the run again, the fault included; kept apart from what the diagnoser sees."""
    return {
        "config": dict(entry.run.job.config),
        "seed": entry.run.job.seed,
        "spoil": [entry.spoil.kind, entry.spoil.amount, entry.spoil.seed],
        "oracle": entry.oracle,
    }


def cells() -> list[str]:
    """Data sets and architectures that fit together."""
    return [f"{d}-{a}" for d in NAMES for a in ARCHITECTURES if a == "mlp" or d != "adult"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("folder", type=Path, help="one file for each base configuration goes there")
    parser.add_argument("--cell", action="append", help=f"of {', '.join(cells())}")
    parser.add_argument("--bases", type=int, nargs=2, default=(0, 5), help="first and last, without the last")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for index in range(*given.bases):
        for cell in given.cell or cells():
            file = given.folder / f"{cell}-{index}.jsonl.gz"
            if file.exists():
                continue
            began = time.time()
            dataset, _, architecture = cell.partition("-")
            runs, recipes = controlled(load(dataset, given.datasets), architecture, index)
            file.with_suffix("").with_suffix(".recipes.json").write_text(json.dumps(recipes))
            write_runs(file, runs)
            healthy = sum(run.label == "healthy" for run in runs)
            print(f"{file.name}: {len(runs)} runs, {healthy} healthy, {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
