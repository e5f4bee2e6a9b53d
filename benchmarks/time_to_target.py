"""How long until a network is as good as the best of many random trainings? Rheostat beside the tuners people use.

    python -m benchmarks.time_to_target --datasets FOLDER --targets FILE --random 200 [--task digits,adult,...]
    python -m benchmarks.time_to_target --datasets FOLDER --targets FILE [--task ...] [--tools rheostat,optuna,...]
        [--seeds 5] [--minutes 10] [--loop typical] [--json FILE]

The first line computes the targets and keeps them: of 200 random configurations trained in full by Rheostat, the best
validation value of any epoch, plus 2 % of it (`--slack`). The second runs every tool on every task with every seed,
one at a time, each on two cores (`--cores`) of one thread: the same space, network, batch size and number of epochs.
A run ends when any epoch of any trial is as good as the target, or after `--minutes`; then it counts as if it had
ended there, and the table says how many did (the true median may be higher). Time begins with the process; the second
figure leaves out what it takes until everything is imported and the search begins.

Tools: Rheostat with its defaults (`rheostat`: engine loop; `rheostat-lanes`: engine lanes), Optuna (TPE, Hyperband
pruner, two processes), Ray Tune (ASHA), KerasTuner (Hyperband, chief and two workers, Keras 3 on torch). Users of
Optuna and Ray write the training loop: with `--loop typical` it is that of PyTorch's quickstart and of their
documentation, with `tight` an expert's. Extra `bench` has them all. The folder holds adult, fashion-mnist and
tinyshakespeare as `benchmarks.claims` uses them; digits come with scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.live.notes import new_notes
from benchmarks.live.problems import PROBLEMS, prepare
from benchmarks.live.tools import TOOLS, Run

LOOK_SECONDS, GRACE_SECONDS = 0.02, 10.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Result:
    """One run: seconds until the target, or until the limit where it was not `reached`."""

    task: str
    tool: str
    seed: int
    reached: bool
    seconds: float
    search_seconds: float  # without imports
    best: float
    epochs: int  # that were noted; of Rheostat only improvements are
    target: float


def start(tool: str, run: Run) -> subprocess.Popen[bytes]:
    cores = sorted(os.sched_getaffinity(0))[: run.cores]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.live.tools", tool, *run.arguments()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=run.folder,
        stdout=(run.folder / "output.txt").open("wb"),
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a tool and whatever it started: politely, then not."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, GRACE_SECONDS)
    for one in alive:
        one.kill()
    process.wait()


def race(tool: str, run: Run, target: float) -> Result:
    """Run a tool until the target, the limit, or its own end; which must not be a crash."""
    began = time.time()
    process = start(tool, run)
    place, best, epochs, ready, reached = 0, float("inf"), 0, began, None
    try:
        while reached is None and time.time() < began + 60 * run.minutes:
            ended = process.poll() is not None
            notes, place = new_notes(run.notes, place)
            for note in notes:
                if "ready" in note:
                    ready = note["at"] if ready == began else ready  # the first process of several
                    continue
                epochs += 1
                best = min(best, note["value"])
                if note["value"] <= target and reached is None:
                    reached = note["at"]
            if ended:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        end(process)
    if reached is None and time.time() < began + 60 * run.minutes - 5:
        raise SystemExit(f"{tool} on {run.problem} ended too early:\n{(run.folder / 'output.txt').read_text()[-3000:]}")
    stopped = reached or began + 60 * run.minutes
    return Result(
        run.problem,
        tool,
        run.seed,
        reached is not None,
        round(stopped - began, 2),
        round(stopped - ready, 2),
        best,
        epochs,
        target,
    )


def compute_target(task: str, data: Path, trainings: int, cores: int) -> dict[str, Any]:
    """The best value of so many random trainings, and the lowest value of each of them."""
    from rheostat.study import Study

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = Run(task, data, folder / "notes.jsonl", folder, 0, cores, False, 24 * 60)
        began = time.time()
        process = start(f"random-{trainings}", run)
        try:
            if process.wait():
                raise SystemExit((folder / "output.txt").read_text()[-3000:])
        finally:
            end(process)
        trials = Study.load(task, folder / "studies.db").trials
        lowest = [float("inf") if trial.value is None else trial.value for trial in trials]
    return {
        "best": min(lowest),
        "trainings": trainings,
        "epochs": PROBLEMS[task].epochs,
        "seconds": round(time.time() - began),
        "lowest": sorted(lowest),
    }


def table(results: Sequence[Result]) -> str:
    lines = [f"{'task':12}{'tool':16}{'median s':>10}{'range':>16}{'without imports':>17}{'reached':>9}"]
    for task in dict.fromkeys(result.task for result in results):
        for tool in dict.fromkeys(result.tool for result in results):
            own = [result for result in results if (result.task, result.tool) == (task, tool)]
            if not own:
                continue
            seconds = [result.seconds for result in own]
            reached = sum(result.reached for result in own)
            most = "≥ " if 2 * reached <= len(own) else ""
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            search = statistics.median(result.search_seconds for result in own)
            lines.append(
                f"{task:12}{tool:16}{most + format(statistics.median(seconds), '.1f'):>10}{spread:>16}"
                f"{search:>17.1f}{f'{reached}/{len(own)}':>9}"
            )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--random", type=int, help="compute targets from so many random trainings, and nothing else")
    parser.add_argument("--task", default=",".join(PROBLEMS))
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--slack", type=float, default=0.02)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--loop", choices=("typical", "tight"), default="typical")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.task, options.tools = options.task.split(","), options.tools.split(",")
    for name, known in [*((task, PROBLEMS) for task in options.task), *((tool, TOOLS) for tool in options.tools)]:
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    return options


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that tools at work are ended
    options = parse()
    targets = json.loads(options.targets.read_text()) if options.targets.exists() else {}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as cache:
        for task in options.task:
            data = prepare(task, options.datasets, Path(cache))
            if options.random:
                targets[task] = compute_target(task, data, options.random, options.cores)
                options.targets.write_text(json.dumps(targets, indent=1))
                print(f"{task}: best {targets[task]['best']:.5f} in {targets[task]['seconds']} s", flush=True)
                continue
            if task not in targets:
                raise SystemExit(f"{options.targets} has no target for {task}: compute it with --random 200.")
            target = targets[task]["best"] * (1 + options.slack)
            for seed in range(options.seeds):
                for tool in options.tools:  # tools take turns, so that a busy moment of the machine hits all
                    with tempfile.TemporaryDirectory() as scratch:
                        folder = Path(scratch)
                        run = Run(
                            task,
                            data,
                            folder / "notes.jsonl",
                            folder,
                            seed,
                            options.cores,
                            options.loop == "tight",
                            options.minutes,
                        )
                        results.append(race(tool, run, target))
                    print(results[-1], flush=True)
                    if options.json:
                        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    if results:
        print("\n" + table(results))


if __name__ == "__main__":
    main()
