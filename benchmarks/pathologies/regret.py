"""Does the advice help? python -m benchmarks.pathologies.regret DATASETS FOLDER PREDICTIONS [--runs N] [--json OUT]

The first advice on a run is followed once, the run is trained again from the start with the same seed, and what became
of its regret to the cure that its label rests on is noted: 1 is all of it removed, 0 none, below 0 it got worse. FOLDER
and PREDICTIONS are those of `make` and `fit`, so that every diagnosis is of a data set and an architecture that the
classifier had not seen. Beside it: an action drawn at random, and AutoTrainer's first repair. Advice that is in words
(shuffle, mend the labels, unfreeze) is followed as a person would: where the run has that fault, it is taken away.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.pathologies.data import load
from benchmarks.pathologies.fused import train
from benchmarks.pathologies.make import Bench, Spoil, logs
from benchmarks.pathologies.networks import ACTIVATIONS
from benchmarks.pathologies.published import autotrainer
from rheostat.diagnose.base import HEALTHY, Action
from rheostat.diagnose.catalogue import LEARNT, PATHOLOGIES
from rheostat.diagnose.diagnosis import diagnose
from rheostat.diagnose.observations import LabelledRun, read_runs
from rheostat.types import Config, Job

WORSE = 0.05  # a healthy run is made worse by more than this, in log validation loss
WORST = math.log(2.0)  # above the loss of one who knows the frequencies alone, no value counts
# Advice in words, followed: what is taken out of a configuration, or of what was done to the data.
MANUAL: Mapping[str, Mapping[str, Any]] = {
    "bad_initialisation": {"init": 1.0},
    "dead_units": {"bias": 0.0},
    "saturated_units": {"init": 1.0, "activation": "relu"},
    "vanishing_gradient": {"init": 1.0, "activation": "relu", "cell": "gru"},
    "not_shuffled": {"in_order": False},
    "frozen_layer": {"frozen": False},
    "double_softmax": {"softmax": False},
}
MENDED = {"label_noise": "labels", "input_scale": "units"}


@dataclass(frozen=True)
class Deed:
    """A cause that is acted upon, and the action."""

    cause: str
    action: Action


def ours(run: LabelledRun, probabilities: Mapping[str, float]) -> Deed | None:
    found = diagnose(run.observations, probabilities)
    if not found.causes or found.healthy >= found.causes[0].probability:
        return None
    return Deed(found.causes[0].name, found.causes[0].advice)


def at_random(run: LabelledRun, rng: random.Random) -> Deed:
    cause = rng.choice(LEARNT)
    return Deed(cause, PATHOLOGIES[cause].remedy(run.observations))


def first_repair(run: LabelledRun) -> Deed | None:
    for cause in autotrainer.causes(run.observations):
        for action in autotrainer.repairs(cause, run.observations):
            if action.set.get("activation", "relu") in ACTIVATIONS and "norm" not in action.set:
                return Deed(cause, action)  # the first that these networks can follow
    return None


def followed(recipe: Mapping[str, Any], deed: Deed, examples: int) -> tuple[Config, Spoil]:
    """The run's full configuration and its data, changed as the deed says."""
    config, spoil = Config(recipe["config"]), Spoil(*recipe["spoil"])
    if deed.cause in MENDED:
        return config, Spoil() if spoil.kind == MENDED[deed.cause] else spoil
    changed = dict(deed.action.apply(config))
    changed |= {name: value for name, value in MANUAL.get(deed.cause, {}).items() if name in changed}
    changed["batch_size"] = min(max(int(changed["batch_size"]), 1), examples)
    if changed["schedule"] == "constant":
        changed.pop("warmup", None)
    changed["units"] = -(-changed["units"] // 2) * 2  # a transformer's heads share them
    return Config(changed), spoil


def chosen(runs: Sequence[LabelledRun], number: int) -> list[LabelledRun]:
    """Half of them sick, as evenly over the causes as there are runs; half healthy."""
    rng = random.Random(0)
    by_label: dict[str, list[LabelledRun]] = defaultdict(list)
    for run in rng.sample(list(runs), len(runs)):
        by_label[run.label].append(run)
    healthy = by_label.pop(HEALTHY, [])
    each = max(number // 2 // max(len(by_label), 1), 1)
    return [run for group in by_label.values() for run in group[:each]] + healthy[: number // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipes: dict[str, Any] = {}
    for file in sorted(given.folder.glob("*.recipes.json")):
        recipes |= json.loads(file.read_text())
    predictions = json.loads(given.predictions.read_text())
    everything = [run for file in sorted(given.folder.glob("*.jsonl.gz")) for run in read_runs(file)]
    runs = chosen([run for run in everything if run.id in recipes], given.runs)
    rows = []
    by_group: dict[str, list[LabelledRun]] = defaultdict(list)
    for run in runs:
        by_group[run.group].append(run)
    for group, members in sorted(by_group.items()):
        rows += followed_through(group, members, recipes, predictions, given.datasets)
        print(group, len(rows), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(rows))
    Console().print(summary(rows))


def followed_through(
    group: str,
    runs: Sequence[LabelledRun],
    recipes: Mapping[str, Any],
    predictions: Mapping[str, Any],
    datasets: Path,
) -> list[dict[str, Any]]:
    """Every way to act on the runs of one base configuration, and what became of them."""
    data = load(runs[0].dataset, datasets)
    bench = Bench(data, runs[0].architecture, 0)
    pending: dict[Spoil, list[tuple[dict[str, Any], Config, int]]] = defaultdict(list)
    rows = []
    for run in runs:
        rng = random.Random(run.id)
        recipe = recipes[run.id]
        probed = predictions["probed"].get(run.id, predictions["plain"][run.id])
        deeds = {
            "ours": ours(run, predictions["plain"][run.id]),
            "ours, probed": ours(run, probed),
            "at random": at_random(run, rng),
            "AutoTrainer": first_repair(run),
        }
        worst = math.log(run.observations.facts["prior_loss"]) + WORST
        before = min(_value(run), worst)
        for name, deed in deeds.items():
            row = {
                "run": run.id,
                "label": run.label,
                "way": name,
                "cause": deed.cause if deed else "",
                "before": before,
                "after": before,
                "oracle": min(recipe["oracle"], worst),
                "worst": worst,
            }
            rows.append(row)
            if deed is not None:
                examples = int(run.observations.facts["examples"])
                config, spoil = followed(recipe, deed, examples)
                pending[spoil].append((row, config, recipe["seed"]))
    for spoil, entries in pending.items():
        jobs = [Job(n, config, seed, config.epochs, config.epochs) for n, (_, config, seed) in enumerate(entries)]
        for (row, _, _), trained in zip(entries, train(bench.task(spoil), jobs, bench.programs), strict=True):
            row["after"] = min(logs([trained])[0], row["worst"])
    return rows


def _value(run: LabelledRun) -> float:
    curve = run.observations.curve("val_loss")
    ended = run.observations.status.ended and run.observations.status != "infeasible"
    return math.log(float(np.nanmin(curve))) if ended and len(curve) else math.inf


def removed(row: Mapping[str, float]) -> float:
    """The share of the regret that was removed."""
    regret = row["before"] - row["oracle"]
    return float(np.clip((row["before"] - row["after"]) / regret, -1, 1)) if regret > 0 else 0.0


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("", "sick", "regret removed, median", "quartiles", "acted", "healthy", "made worse", "acted")
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        sick = [row for row in mine if row["label"] != HEALTHY]
        well = [row for row in mine if row["label"] == HEALTHY]
        shares = [removed(row) for row in sick] or [math.nan]
        worse = np.mean([row["after"] > row["before"] + WORSE for row in well]) if well else math.nan
        table.add_row(
            way,
            str(len(sick)),
            f"{np.median(shares):.2f}",
            f"{np.quantile(shares, 0.25):.2f} {np.quantile(shares, 0.75):.2f}",
            f"{np.mean([bool(row['cause']) for row in sick]):.0%}",
            str(len(well)),
            f"{worse:.1%}",
            f"{np.mean([bool(row['cause']) for row in well]) if well else math.nan:.0%}",
        )
    return table


if __name__ == "__main__":
    main()
