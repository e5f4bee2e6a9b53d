"""64 random trials of a small network from process start to process end, beside what people do today.

    python -m benchmarks.end_to_end [--repeats 3] [--trials 64] [--epochs 20] [--only lanes tight]

Digits, MLP 64-128-128-10, batch 32, AdamW with a random learning rate and weight decay per trial, validation after
every epoch, two processes of one thread each. *lanes*, *loop* and *auto* are `rheostat tune` with that engine, with
all its records and checkpoints. *optuna* is Optuna's random sampler with a journal file, as its documentation advises
for processes on one machine, around PyTorch's quickstart loop with a DataLoader. *tight* is an expert's loop without
any records. Both loops stand in `benchmarks.hand_written`. Contenders take turns; figures are medians, and ratios
medians of the ratios of the same turn. optuna must be installed.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

PROCESSES = 2
ENGINES = ("lanes", "loop", "auto")
FIXED = {"layers": 2, "units": 128, "batch_size": 32, "activation": "relu", "norm": "none", "dropout": 0}


def rheostat(engine: str, trials: int, epochs: int, folder: Path) -> list[list[str]]:
    settings = [part for name, value in FIXED.items() for part in ("--set", f"{name}={value}")]
    return [
        [
            str(Path(sys.executable).with_name("rheostat")), "tune", "digits",
            "--engine", engine, "--workers", str(PROCESSES),
            "--schedule", "fifo", "--search", "random", "--trials", str(trials), "--epochs", str(epochs),
            "--storage", str(folder / "studies.db"), *settings,
        ]
    ]  # fmt: skip


def by_hand(kind: str, trials: int, epochs: int, folder: Path) -> list[list[str]]:
    share = trials // PROCESSES
    return [
        [sys.executable, "-m", "benchmarks.end_to_end", "--worker", kind, str(share), str(epochs), str(folder), str(n)]
        for n in range(PROCESSES)
    ]


def seconds(commands: list[list[str]]) -> float:
    started = time.perf_counter()
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    for process in processes:
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors.decode()[-2000:])
    return time.perf_counter() - started


def check(folder: Path, epochs: int) -> None:
    """Whether the study has trained as many epochs as it should."""
    with closing(sqlite3.connect(folder / "studies.db")) as database:
        ((trained,),) = database.execute("SELECT count(*) FROM reports WHERE epoch_end").fetchall()
    if trained != epochs:
        print(f"  trained {trained} epochs of {epochs}: some trials ended early")


def worker(kind: str, trials: int, epochs: int, folder: str, number: int) -> None:
    """A process of *optuna* or *tight*; it imports nothing of Rheostat."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from benchmarks.hand_written import tight, typical

    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    mean, sd = x[:1437].mean(0), x[:1437].std(0) + 1e-8
    inputs, targets = torch.tensor((x - mean) / sd, dtype=torch.float32), torch.tensor(y)
    train, validation = (inputs[:1437], targets[:1437]), (inputs[1437:], targets[1437:])

    def run(lr: float, weight_decay: float) -> float:
        epoch = (typical if kind == "optuna" else tight)(train, validation, lr=lr, weight_decay=weight_decay)
        return min(epoch()[1] for _ in range(epochs))

    if kind == "tight":
        rng = np.random.default_rng(number)
        for _ in range(trials):
            run(10 ** rng.uniform(-4, -1), 10 ** rng.uniform(-3, 0))
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(Path(folder) / "journal.log"))
    study = optuna.create_study(
        study_name="digits",
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.RandomSampler(seed=number),
        load_if_exists=True,
    )
    study.optimize(
        lambda trial: run(
            trial.suggest_float("lr", 1e-4, 1e-1, log=True), trial.suggest_float("weight_decay", 1e-3, 1.0, log=True)
        ),
        n_trials=trials,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=["lanes", "loop", "auto", "tight", "optuna"])
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, trials, epochs, folder, number = options.worker
        worker(kind, int(trials), int(epochs), folder, int(number))
        return
    taken: dict[str, list[float]] = {name: [] for name in options.only}
    for _ in range(options.repeats):
        for name, measured in taken.items():
            with tempfile.TemporaryDirectory() as folder:
                make = rheostat if name in ENGINES else by_hand
                measured.append(seconds(make(name, options.trials, options.epochs, Path(folder))))
                if name in ENGINES:
                    check(Path(folder), options.trials * options.epochs)
    first = options.only[0]
    for name, measured in taken.items():
        ratio = statistics.median(own / base for own, base in zip(measured, taken[first], strict=True))
        spread = f"{min(measured):.1f} to {max(measured):.1f}"
        print(f"{name:8}{statistics.median(measured):7.1f} s ({spread})   {ratio:5.2f} x the time of {first}")


if __name__ == "__main__":
    main()
