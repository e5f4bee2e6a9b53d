"""Does the best learning rate stay where it is when the network gets wider? Standard parametrisation beside muP.

    python -m benchmarks.mup run --images train-images-idx3-ubyte.gz --text input.txt [--device cuda] [--save mup.json]
    python -m benchmarks.mup show mup.json [mup-2.json ...] [--figure docs/figures/mup.svg]

An MLP (three hidden layers) on images, and a small transformer (two layers, heads of 32 units) on the characters of a
text, trained by Adam at a constant rate for a fixed number of updates; the loss is the mean training loss of the last
fifth of them. Batches and seeds are the same for every learning rate and width. *Moved* is from the narrowest to the
widest network, in decades of the learning rate. `run` needs torch and numpy, `show` with --figure also matplotlib.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.models.language_model import Transformer
from rheostat.models.mlp import MLP
from rheostat.mup import Scaled
from rheostat.train import optimizers
from rheostat.train.optimizers import Group
from rheostat.types import Config

BASE = 64
HEAD = 32  # units of an attention head, whatever the width
SCALINGS = ("standard", "muP")
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]  # from a seed, one for each update


@dataclass(frozen=True)
class Run:
    network: str
    scaling: str
    width: int
    lr: float
    seed: int
    loss: float


@dataclass(frozen=True)
class Experiment:
    build: Callable[[Config], nn.Module]
    batches: Batches
    lrs: tuple[float, ...]


def decades(low: float, high: float, step: float) -> tuple[float, ...]:
    """Learning rates from 10^low to 10^high, both included."""
    return tuple(10 ** (low + i * step) for i in range(round((high - low) / step) + 1))


def images(path: Path, steps: int, batch: int, device: str) -> Experiment:
    """The MLP on an IDX file of images beside its file of labels."""
    x = torch.from_numpy(idx(path)).flatten(1).float().div(255)
    x = ((x - x.mean()) / x.std()).to(device)
    y = torch.from_numpy(idx(path.with_name(path.name.replace("images-idx3", "labels-idx1")))).long().to(device)

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for rows in torch.randint(len(x), (steps, batch), generator=generator).to(device):
            yield x[rows], y[rows]

    inputs = x.shape[1]
    return Experiment(lambda c: MLP(inputs, 10, layers=3, units=c.width), batches, decades(-4.5, -1, 0.25))


def idx(path: Path) -> np.ndarray[Any, Any]:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy()


def text(path: Path, steps: int, batch: int, length: int, device: str) -> Experiment:
    """The transformer on random windows of a text, character by character."""
    characters, codes = np.unique(np.array(list(path.read_text(encoding="utf-8"))), return_inverse=True)
    tokens = torch.from_numpy(codes).to(device)

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(tokens) - length, (steps, batch, 1), generator=generator)
        for places in (starts + torch.arange(length + 1)).to(device):
            windows = tokens[places]  # (batch, length + 1)
            yield windows[:, :-1], windows[:, 1:]

    def build(config: Config) -> nn.Module:
        return Transformer(len(characters), hidden=config.width, layers=2, heads=config.width // HEAD, tied=False)

    return Experiment(build, batches, decades(-4, -1, 0.25))


def train(experiment: Experiment, scaling: str, width: int, lr: float, seed: int, device: str) -> float:
    """The mean training loss of the last fifth of the updates; infinite where it is not a number."""
    config = Config(width=width, lr=lr, optimizer="adam")
    torch.manual_seed(seed)
    scaled = Scaled(experiment.build, base={"width": BASE})
    model = (scaled if scaling == "muP" else experiment.build)(config).to(device)
    groups = scaled.groups(model, config) if scaling == "muP" else [Group(tuple(model.parameters()))]
    optimizer = optimizers.build(config, groups)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    losses = []
    for inputs, targets in experiment.batches(seed):
        outputs = model(inputs)
        loss = F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    final = float(torch.stack(losses[-len(losses) // 5 :]).mean())
    return final if math.isfinite(final) else math.inf


def run(options: argparse.Namespace) -> None:
    experiments = {}
    if options.images:
        experiments["mlp"] = images(options.images, options.mlp_steps, 64, options.device)
    if options.text:
        experiments["transformer"] = text(options.text, options.steps, 16, options.length, options.device)
    runs: list[Run] = []
    for network, experiment in experiments.items():
        for width in options.widths:
            began = time.perf_counter()
            for scaling in SCALINGS:
                for lr in experiment.lrs[:: options.every]:
                    for seed in range(options.seeds):
                        loss = train(experiment, scaling, width, lr, seed, options.device)
                        runs.append(Run(network, scaling, width, lr, seed, loss))
            print(f"{network} {width}: {time.perf_counter() - began:.0f} s", flush=True)
            if options.save:
                options.save.write_text(json.dumps([asdict(run) for run in runs]))
    print(table(runs))


def curves(runs: Sequence[Run], network: str, scaling: str) -> dict[int, dict[float, float]]:
    """By width: the mean loss over the seeds, by learning rate."""
    found: dict[int, dict[float, list[float]]] = {}
    for each in runs:
        if (each.network, each.scaling) == (network, scaling):
            found.setdefault(each.width, {}).setdefault(each.lr, []).append(each.loss)
    return {
        width: {lr: statistics.fmean(losses) for lr, losses in sorted(by_lr.items())}
        for width, by_lr in sorted(found.items())
    }


def best(curve: Mapping[float, float]) -> float:
    """The learning rate of the lowest loss, by a parabola through it and its neighbours in log lr."""
    lrs, losses = list(curve), list(curve.values())
    i = min(range(len(lrs)), key=losses.__getitem__)
    if i in (0, len(lrs) - 1) or not math.isfinite(losses[i - 1] + losses[i + 1]):
        return lrs[i]
    left, right = losses[i - 1] - losses[i], losses[i + 1] - losses[i]
    shift = (left - right) / (2 * (left + right)) if left + right else 0.0
    return lrs[i] * float((lrs[i + 1] / lrs[i]) ** shift)


def table(runs: Sequence[Run]) -> str:
    lines = [f"{'network':<13}{'scaling':<10}{'width':>6}{'best lr':>11}{'loss there':>12}{'loss at the lr of':>19}"]
    for network in dict.fromkeys(run.network for run in runs):
        for scaling in SCALINGS:
            by_width = curves(runs, network, scaling)
            narrow = next(iter(by_width))
            tuned = min(by_width[narrow], key=by_width[narrow].__getitem__)
            for width, curve in by_width.items():
                lines.append(
                    f"{network:<13}{scaling:<10}{width:>6}{best(curve):>11.2g}{min(curve.values()):>12.3f}"
                    f"{curve[tuned]:>13.3f}  ({narrow})"
                )
            first, *_, last = (best(curve) for curve in by_width.values())
            lines.append(f"{'':<13}{scaling}: moved by {math.log10(last / first):+.2f} decades")
    return "\n".join(lines)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Loss against learning rate, a curve for each width; the best of each is marked."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "mup", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    networks = list(dict.fromkeys(run.network for run in runs))
    figure, axes = pyplot.subplots(len(networks), 2, figsize=(7.2, 2.7 * len(networks)), sharey="row", squeeze=False)
    for row, network in zip(axes, networks, strict=True):
        lowest = min(min(c.values()) for s in SCALINGS for c in curves(runs, network, s).values())
        highest = max(min(c.values()) for s in SCALINGS for c in curves(runs, network, s).values())
        for panel, scaling in zip(row, SCALINGS, strict=True):
            by_width = curves(runs, network, scaling)
            for i, (width, curve) in enumerate(by_width.items()):
                grey = str(0.72 * (1 - i / max(len(by_width) - 1, 1)))  # the wider, the darker
                style = ("-", "--", "-.", ":", "-")[i % 5]
                panel.plot(list(curve), list(curve.values()), style, color=grey, linewidth=1.3, label=str(width))
                lr = min(curve, key=curve.__getitem__)
                panel.plot(lr, curve[lr], "osD^v"[i % 5], color=grey, markersize=6)
            panel.set_xscale("log")
            panel.set_ylim(lowest - 0.05 * (highest - lowest + 0.5), highest + 1.2 * (highest - lowest + 0.3))
            panel.set_title(f"{network}, {scaling}", fontsize=9)
            panel.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("training loss")
    for panel in axes[-1]:
        panel.set_xlabel("learning rate")
    axes[0][1].legend(title="width", frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--images", type=Path, help="IDX file of images, gzipped; that of the labels lies beside it")
    runner.add_argument("--text", type=Path)
    runner.add_argument("--device", default="cpu")
    runner.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    runner.add_argument("--seeds", type=int, default=3)
    runner.add_argument("--mlp-steps", type=int, default=200)
    runner.add_argument("--steps", type=int, default=150, help="of the transformer")
    runner.add_argument("--length", type=int, default=64, help="of the transformer's windows")
    runner.add_argument("--every", type=int, default=1, help="2 leaves out every other learning rate")
    runner.add_argument("--save", type=Path)
    shower = commands.add_parser("show")
    shower.add_argument("results", type=Path, nargs="+")
    shower.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "run":
        run(options)
        return
    runs = [Run(**each) for path in options.results for each in json.loads(path.read_text())]
    print(table(runs))
    if options.figure:
        draw(runs, options.figure)


if __name__ == "__main__":
    main()
