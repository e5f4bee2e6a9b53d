"""Lanes on a GPU: epochs per second of K trials as one program, beside one process per trial and many at a time.

    python -m benchmarks.gpu [--device cuda] [--lanes 1 4 16 64 256 1024] [--processes 16] [--epochs 5]
                             [--peak-tflops 67 --peak-gbs 4800]

Digits on the device, batch 32, AdamW, no dropout: an MLP, a small CNN, an LSTM over the rows of the images, and a
small transformer encoder. *alone* is an expert's loop (`benchmarks.hand_written`) in one process, one trial after
another; *at once* is that loop in many processes that share the device, all their epochs together. Ratios are of epochs
per second, lanes over the other. For each K also what a step is made of: operations started, floating point operations
of forward and backward, and bytes that the update moves (weights, gradients and two moments, read and written), with
their share of the peaks where those are given.

Rheostat itself does not train lanes on an accelerator yet: this script is for finding out whether it should. It was run
on a CPU only (`--device cpu`), where it shows that it works, and nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.hand_written import tight
from benchmarks.lanes import CNN, Recurrent, mlp
from rheostat.targets import load_target
from rheostat.train.lanes import Lanes
from rheostat.train.loop import Training, is_out_of_memory
from rheostat.train.program import Program
from rheostat.train.task import Task
from rheostat.types import Config, Job

BATCH = 32
WARM = 2  # epochs


class Transformer(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.embed, self.head = nn.Linear(8, 64), nn.Linear(64, 10)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x.view(-1, 8, 8))).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(0.0),
    "cnn": CNN,
    "lstm": lambda: Recurrent(nn.LSTM),
    "transformer": Transformer,
}
Pair = tuple[Tensor, Tensor]


def data(device: str) -> tuple[Pair, Pair]:
    task = load_target("digits", device="cpu").task
    assert isinstance(task.train, tuple) and isinstance(task.validation, tuple)
    (x, y), (vx, vy) = task.train, task.validation
    return (x.to(device), y.to(device)), (vx.to(device), vy.to(device))


def seconds(what: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    what()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def hand_written(name: str, device: str) -> Callable[[], object]:
    train, validation = data(device)
    return tight(train, validation, NETWORKS[name]().to(device), BATCH)


def worker(name: str, device: str, epochs: int) -> None:
    """One of many processes: says when it is ready, begins when told, and tells its epochs per second."""
    epoch = hand_written(name, device)
    for _ in range(WARM):
        seconds(epoch, device)
    print("ready", flush=True)
    sys.stdin.readline()
    print(epochs / sum(seconds(epoch, device) for _ in range(epochs)), flush=True)


def at_once(name: str, device: str, epochs: int, processes: int) -> float:
    command = [sys.executable, "-m", "benchmarks.gpu", "--worker", name, "--device", device, "--epochs", str(epochs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    group = [subprocess.Popen(command, **pipes) for _ in range(processes)]  # type: ignore[call-overload]
    for process in group:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name}: a process of {processes} could not begin")
    for process in group:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in group)


def lanes_of(name: str, device: str, lanes: int) -> Lanes:
    train, validation = data(device)
    task = Task(lambda config: NETWORKS[name](), train, validation, device=device)
    trainings = [
        Training(task, Job(k, Config(lr=1e-3 * (1 + k / lanes), batch_size=BATCH, optimizer="adamw"), k, 10**6, 10**6))
        for k in range(lanes)
    ]
    return Lanes(trainings, Program(trainings[0].model, trainings[0].loss_function, record_after=0.0))


def anatomy(together: Lanes, device: str, options: argparse.Namespace) -> str:
    """What a step of all lanes is made of."""
    batch = next(together._batches())
    training = together.trainings[0]
    with FlopCounterMode(display=False) as counter:
        together.backward(batch)
    flops = counter.get_total_flops()
    moved = sum(p.numel() * p.element_size() for p in training.model.parameters()) * 7 * len(together.trainings)
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        losses, gradients = together.backward(batch)
        for lane, each in enumerate(together.trainings):
            together._advance(lane, each, losses[lane], gradients, BATCH)
    started = sum(event.count for event in profiled.key_averages())
    text = f"{started} operations, {flops / 1e6:.1f} MFLOP, {moved / 1e6:.1f} MB updated"
    step = seconds(lambda: together.backward(batch), device)
    if options.peak_tflops:
        text += f", {100 * flops / step / options.peak_tflops / 1e12:.1f} % of the peak"
    if options.peak_gbs:
        text += f", {100 * moved / step / options.peak_gbs / 1e9:.1f} % of the bandwidth"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--peak-gbs", type=float)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        worker(options.worker, options.device, options.epochs)
        return
    for name in options.networks:
        epoch = hand_written(name, options.device)
        for _ in range(WARM):
            epoch()
        alone = 1 / statistics.median(seconds(epoch, options.device) for _ in range(options.epochs))
        together_rate = at_once(name, options.device, options.epochs, options.processes)
        print(
            f"{name}: alone {alone:.2f} epochs/s, {options.processes} at once {together_rate:.2f} epochs/s", flush=True
        )
        for lanes in options.lanes:
            try:
                together = lanes_of(name, options.device, lanes)
                for _ in range(WARM):
                    together.train_epoch()
                median = statistics.median(seconds(together.train_epoch, options.device) for _ in range(options.epochs))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                print(f"  K={lanes:5}  out of memory")
                break
            rate = lanes / median
            ratios = f"{rate / alone:6.2f} x alone  {rate / together_rate:6.2f} x at once"
            made_of = anatomy(together, options.device, options)
            print(f"  K={lanes:5}  {rate:9.2f} epochs/s  {ratios}   a step: {made_of}", flush=True)


if __name__ == "__main__":
    main()
