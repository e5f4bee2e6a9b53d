"""What deciding in logical time costs: `rheostat tune digits` with two workers, against decisions as results arrive.

    python -m benchmarks.logical_time [--repeats 5]

Both train the same number of trials with ASHA; the second settles assignments in the order in which they end, so its
decisions, and the epochs it trains, change from run to run. Compared are seconds per epoch trained, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from rheostat.schedule.asha import ASHA
from rheostat.search.sobol import Sobol
from rheostat.study import Study
from rheostat.targets import load_target


class AsTheyArrive(ASHA):
    adaptive = False


def seconds_per_epoch(kind: type[ASHA], seed: int, in_flight: int) -> float:
    target = load_target("digits", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        study = Study("s", target.space, metric="val_error", storage=Path(folder) / "s.db", seed=seed)
        scheduler = kind(Sobol(target.space, seed), 60, 20)
        start = time.perf_counter()
        study.train(target.task, schedule=scheduler, workers=2, in_flight=in_flight, progress="none")
        return (time.perf_counter() - start) / sum(trial.epochs for trial in study.trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for in_flight in (4, 8, 16):
        ratios = [
            seconds_per_epoch(ASHA, seed, in_flight) / seconds_per_epoch(AsTheyArrive, seed, in_flight)
            for seed in range(options.repeats)
        ]
        print(
            f"in flight {in_flight:>2}: {statistics.median(ratios):.2f} times the seconds per epoch ({sorted(ratios)})"
        )


if __name__ == "__main__":
    main()
